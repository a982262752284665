"""Features in shards: Arrow files on disk or in an object store, read row by row."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.core.errors import DamagedFile, UserError, first_line
from roco_caption.core.files import atomic_open, atomic_path, read_json, write_json
from roco_caption.features.table import Features, concatenated

INSTALL = 'It may need pip install ".[distributed]" in a clone of the project'
FIELDS = "features", "grid"
COPIED = "copied.json"  # the states of an object store's shards that were copied
KEY = b"roco_caption"  # of an Arrow file's metadata: encoder, skipped images, shapes of the rows


def write_shard(
    folder: str, ids: Sequence[str], arrays: Sequence[np.ndarray], encoder: dict, skipped: dict
) -> str:
    """Write a shard, an Arrow file that any reader opens, whole or not at all; return its path.

    `folder` may be an fsspec URL; `arrays` are float16 (n, d), and perhaps grids (n, cells,
    channels). The file is named after a hash of the ids, so writing a shard again replaces it.
    """
    import pyarrow as pa

    columns = {"id": pa.array(ids, pa.string())}
    for name, array in zip(FIELDS, arrays, strict=False):
        flat = np.ascontiguousarray(array, np.float16).ravel()
        size = int(np.prod(array.shape[1:]))
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), size)
    notes = {"encoder": encoder, "skipped": skipped, "shapes": [a.shape[1:] for a in arrays]}
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, np.float16).data)
    notes["sha256"] = digest.hexdigest()  # by which a training that continues tells other features
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(notes).encode()})
    names = "\n".join(sorted([*ids, *skipped]))
    path = f"{folder.rstrip('/')}/{hashlib.sha256(names.encode()).hexdigest()[:16]}.arrow"
    fs, place = filesystem(path)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))  # one batch, one memory map
    content = sink.getvalue()
    if is_local(fs):
        with atomic_open(place, size=content.size) as file:
            file.write(content)
    else:  # an object store shows an object only once it is whole
        fs.pipe_file(place, content.to_pybytes())
    return path


def read_shards(
    folder: str | os.PathLike, encoder: dict[str, Any] | None = None, *, mend: bool = False
) -> Features:
    """Read which images the shards hold; features and grids are read from disk when used.

    From an object store only the ids are read: see `local_copy`. All shards must be of `encoder`,
    of `describe`; None requires only that they agree. `mend` sets damaged shards aside, for their
    images to be encoded again, else they raise a UserError, as does a folder without shards.
    """
    fs, place = filesystem(str(folder))
    paths = _listed(fs, place)
    if not paths and not mend:
        raise UserError(f"{folder} holds no shards (*.arrow). Make them first: docs/scaling.md.")
    with ThreadPoolExecutor(16) as pool:  # object stores answer slowly
        opened = list(pool.map(lambda path: _opened(fs, path, mend), paths))
    shards = {path: shard for path, shard in zip(paths, opened, strict=True) if shard}
    expected = encoder or next((shard.encoder for shard in shards.values()), {})
    fixed = {k: v for k, v in expected.items() if k not in ("precision", "requested")}
    encoded = {name for shard in shards.values() for name in shard.ids}
    for path, shard in shards.items():
        shard.require_encoder(path, fixed, "Choose another folder")
        # another shard may have what could not be decoded at first
        shard.skipped = {k: why for k, why in shard.skipped.items() if k not in encoded}
    precisions = {shard.encoder.get("precision") for shard in shards.values()} - {None}
    expected = {k: v for k, v in expected.items() if k != "precision"}
    if len(precisions) == 1:  # else machines differed
        expected["precision"] = precisions.pop()
    return concatenated(list(shards.values()), expected)


def _opened(fs: Any, path: str, mend: bool) -> Features | None:
    """Return a shard's features, mapped into memory; None if it was damaged and set aside."""
    import pyarrow as pa

    local = is_local(fs)
    try:
        with pa.memory_map(path) if local else fs.open(path, block_size=1 << 16) as source:
            options = pa.ipc.IpcReadOptions(included_fields=None if local else [0])  # only the ids
            table = pa.ipc.open_file(source, options=options).read_all()
        notes = json.loads(table.schema.metadata[KEY])
        arrays: dict[str, Any] = {}
        shapes = notes["shapes"] if local else []
        for column, shape in zip(FIELDS, shapes, strict=False):
            flat = [part.flatten().to_numpy(zero_copy_only=True) for part in table[column].chunks]
            arrays[column] = flat[0].reshape(-1, *shape) if flat else np.empty((0, *shape), "f2")
        ids, matrix, grid = table["id"].to_pylist(), arrays.get("features"), arrays.get("grid")
        contents = notes.get("sha256", "")  # old shards have none
        return Features(ids, matrix, notes["encoder"], notes["skipped"], grid, contents=contents)
    except Exception as error:  # a damaged file can raise nearly anything
        if not mend:
            raise DamagedFile(path, first_line(error), "Make its features again.") from error
        fs.mv(path, f"{path}.damaged")
        print(f"{path} is damaged ({first_line(error)}). Set aside; its images are encoded again.")
        return None


def local_copy(url: str, folder: str | os.PathLike) -> str:
    """Copy an object store's shards to a folder of its own below `folder`; return it.

    Those that are there and have not changed are kept, those that have gone are removed. A local
    folder is returned as it is.
    """
    fs, place = filesystem(url)
    if is_local(fs):
        return place
    folder = Path(folder) / hashlib.sha256(url.encode()).hexdigest()[:8]
    listed, record = {path.rsplit("/", 1)[-1]: path for path in _listed(fs, place)}, folder / COPIED
    try:
        known = read_json(record)
    except UserError:  # missing or damaged
        known = {}
    for name, path in listed.items():
        state = fs.ukey(path)  # changes with the object
        if known.get(name) != state or not (folder / name).exists():
            with atomic_path(folder / name, size=fs.size(path)) as aside:
                fs.get_file(path, str(aside))
            known[name] = state
            write_json(record, known)
    for copy in folder.glob("*.arrow") if listed else ():  # none may be an error of the store
        if copy.name not in listed:
            copy.unlink()
    return str(folder)


def _listed(fs: Any, place: str) -> list[str]:
    try:
        return sorted(path for path in fs.ls(place, detail=False) if path.endswith(".arrow"))
    except FileNotFoundError:
        return []


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a path or URL, and the path in it."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be opened ({first_line(error)}). {INSTALL}") from error


def is_local(fs: Any) -> bool:
    """Return whether a file system is this machine's own."""
    return "file" in fs.protocol
