"""Features in shards: Arrow files on a disk or an object store, whose rows are read as needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np

from roco_caption.core.errors import DamagedFile, UserError, first_line
from roco_caption.core.files import atomic_path
from roco_caption.features.table import Features, LazyRows

INSTALL = 'It may need pip install "roco-caption[distributed]"'
KINDS = "features", "grid"
KEY = b"roco_caption"  # of an Arrow file's metadata: encoder, skipped images, the grid's shape


class Rows:
    """Arrays one below the other, as they lie in the shards: indexing reads those rows alone.

    Args:
        arrays: float16 (n, ...) each, memory maps of the shards.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = [array for array in arrays if len(array)] or [np.empty((0, 0), np.float16)]
        self.ends = np.cumsum([len(array) for array in self.arrays])
        self.shape = (int(self.ends[-1]), *self.arrays[0].shape[1:])
        self.dtype = self.arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Any) -> np.ndarray:
        """Return the rows at a slice or an integer array of places, as a new array."""
        places = np.arange(len(self))[places]
        found = np.empty((*places.shape, *self.shape[1:]), self.dtype)
        shards = np.searchsorted(self.ends, places, side="right")
        for shard in np.unique(shards):
            mine = shards == shard
            array = self.arrays[shard]
            found[mine] = array[places[mine] - self.ends[shard] + len(array)]
        return found


def write_shard(
    folder: str,
    ids: Sequence[str],
    arrays: Sequence[np.ndarray],
    encoder: dict[str, Any],
    skipped: dict[str, str],
) -> str:
    """Write a shard, whole or not at all; any reader of Arrow files opens it.

    Args:
        folder: a folder or a URL of one that fsspec writes to, as `s3://bucket/shards`.
        ids: n images.
        arrays: float16 (n, d), and where there are grids (n, cells, channels).
        encoder: of `describe`.
        skipped: {id: reason} for images that could not be decoded.

    Returns:
        Where it lies; its name comes from the images, so that writing it again replaces it.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    import pyarrow as pa

    columns = {"id": pa.array(ids, pa.string())}
    for name, array in zip(KINDS, arrays, strict=False):
        flat = np.ascontiguousarray(array, np.float16).ravel()
        size = int(np.prod(array.shape[1:]))
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), size)
    notes = {"encoder": encoder, "skipped": skipped, "shapes": [a.shape[1:] for a in arrays]}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(notes).encode()})
    name = hashlib.sha256("\n".join(sorted([*ids, *skipped])).encode()).hexdigest()[:16]
    path = f"{folder.rstrip('/')}/{name}.arrow"
    fs, place = filesystem(path)
    if is_local(fs):
        with atomic_path(place, size=table.nbytes) as aside:
            _write(table, str(aside))
    else:  # an object store shows an object only once it is whole
        sink = pa.BufferOutputStream()
        _write(table, sink)
        fs.pipe_file(place, sink.getvalue().to_pybytes())
    return path


def _write(table: Any, sink: Any) -> None:
    import pyarrow as pa

    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))  # one batch: read in one piece


def read_shards(
    folder: str | os.PathLike, encoder: dict[str, Any] | None = None, *, mend: bool = False
) -> Features:
    """Read what shards hold of which images; the features stay where they are.

    Args:
        folder: of `write_shard`. Its files are mapped into memory. From an object store only the
            ids are read: `local_copy` brings the rest.
        encoder: of `describe`, which the shards must come from; None takes any, but one.
        mend: set a damaged shard aside with a word, so that its images are made again.

    Returns:
        `Features` whose `matrix` is a `LazyRows` (n, d), read as it is used; None from an object store.
        An image that two shards hold counts once.

    Raises:
        UserError: a shard is damaged, or comes from another encoder; or there is none, and `mend`
            is off.
    """
    fs, place = filesystem(str(folder))
    paths = _listed(fs, place)
    if not paths and not mend:
        raise UserError(f"{folder} holds no shards (*.arrow). Make them first: docs/scaling.md.")
    with ThreadPoolExecutor(16) as pool:  # object stores answer slowly
        opened = list(pool.map(lambda path: _opened(fs, path, mend), paths))
    shards = [shard for shard in opened if shard]
    found = encoder or (shards[0][1]["encoder"] if shards else {})
    for path, notes, _ in shards:
        if other := [key for key in found if notes["encoder"].get(key) != found[key]]:
            raise UserError(
                f"{path} holds features of another encoder ({other[0]}: "
                f"{notes['encoder'].get(other[0])!r}, wanted {found[other[0]]!r}). Choose another "
                "folder, or the encoder that it belongs to."
            )
    return _joined(shards, found)


def _joined(shards: list[tuple[str, dict, dict]], encoder: dict[str, Any]) -> Features:
    place: dict[str, int] = {}
    rows = 0
    for *_, columns in shards:
        for i, name in enumerate(columns["id"]):
            place.setdefault(name, rows + i)
        rows += len(columns["id"])
    kept = np.array(list(place.values()), np.int64)
    skipped = {k: why for _, notes, _ in shards for k, why in notes["skipped"].items()}
    skipped = {name: why for name, why in skipped.items() if name not in place}
    names = hashlib.sha256("\n".join(place).encode()).hexdigest()
    identity = json.dumps(encoder, sort_keys=True) + names

    def rows_of(kind: str) -> LazyRows | None:
        arrays = [columns[kind] for *_, columns in shards if kind in columns]
        values = cast(np.ndarray, Rows(arrays))
        return LazyRows(values, kept, identity=f"{kind} {identity}") if arrays else None

    matrix, grid = map(rows_of, KINDS)
    return Features(list(place), matrix, encoder, skipped, grid)


def _opened(fs: Any, path: str, mend: bool) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """Return a shard's path, notes and columns; None if it was damaged and set aside."""
    import pyarrow as pa

    try:
        local = is_local(fs)
        with pa.memory_map(path) if local else fs.open(path, block_size=1 << 16) as source:
            only_ids = pa.ipc.IpcReadOptions(included_fields=[0])  # as little as can be fetched
            options = pa.ipc.IpcReadOptions() if local else only_ids
            table = pa.ipc.open_file(source, options=options).read_all()
        notes = json.loads(table.schema.metadata[KEY])
        columns: dict[str, Any] = {"id": table["id"].to_pylist()}
        for kind, shape in zip(KINDS, notes["shapes"] if local else (), strict=False):
            flat = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in table[kind].chunks]
            columns[kind] = flat[0].reshape(-1, *shape) if flat else np.empty((0, *shape), "f2")
        return path, notes, columns
    except Exception as error:  # a damaged file can raise nearly anything
        remedy = "Its images are encoded again." if mend else "Make its features again."
        if not mend:
            raise DamagedFile(path, first_line(error), remedy) from error
        fs.mv(path, f"{path}.damaged")
        print(f"{path} is damaged ({first_line(error)}) and was set aside. {remedy}")
        return None


def local_copy(url: str, folder: str | os.PathLike) -> str:
    """Return a local folder with the shards of an object store; those there already are kept.

    Args:
        url: of the shards; a local folder is returned as it is.
        folder: where copies go.
    """
    fs, place = filesystem(url)
    if is_local(fs):
        return place
    for path in _listed(fs, place):
        copy = Path(folder) / path.rsplit("/", 1)[-1]
        if not copy.exists():
            with atomic_path(copy, size=fs.size(path)) as aside:
                fs.get_file(path, str(aside))
    return str(folder)


def _listed(fs: Any, place: str) -> list[str]:
    try:
        return sorted(path for path in fs.ls(place, detail=False) if path.endswith(".arrow"))
    except FileNotFoundError:
        return []


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a path or URL, and the place in it.

    Raises:
        UserError: a package is missing for it, or there is no such kind of URL.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be opened ({first_line(error)}). {INSTALL}") from error


def is_local(fs: Any) -> bool:
    """Tell whether a file system is this machine's own."""
    return "file" in fs.protocol
