"""Features in shards: Arrow files on disk or in an object store, read row by row."""

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
COLUMNS = "features", "grid"
KEY = b"roco_caption"  # of an Arrow file's metadata: encoder, skipped images, shapes of the rows


class Stacked:
    """Arrays as if concatenated; indexing reads only the rows asked for.

    Args:
        arrays: float16 (n, ...) each, such as memory maps.
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
        rows = np.empty((*places.shape, *self.shape[1:]), self.dtype)
        indices = np.searchsorted(self.ends, places, side="right")
        for index in np.unique(indices):
            array, mask = self.arrays[index], indices == index
            start = self.ends[index] - len(array)
            rows[mask] = array[places[mask] - start]
        return rows


def write_shard(
    folder: str,
    ids: Sequence[str],
    arrays: Sequence[np.ndarray],
    encoder: dict[str, Any],
    skipped: dict[str, str],
) -> str:
    """Write a shard, an Arrow file that any reader opens, whole or not at all.

    Args:
        folder: a folder or a URL that fsspec can write to, such as `s3://bucket/shards`.
        ids: of n images.
        arrays: float16 (n, d), and perhaps grids (n, cells, channels).
        encoder, skipped: as in `Features`.

    Returns:
        Its path. The name is a hash of the ids, so writing a shard again replaces it.

    Raises:
        UserError: the disk is full, or the folder is not writable.
    """
    import pyarrow as pa

    columns = {"id": pa.array(ids, pa.string())}
    for name, array in zip(COLUMNS, arrays, strict=False):
        flat = np.ascontiguousarray(array, np.float16).ravel()
        size = int(np.prod(array.shape[1:]))
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), size)
    notes = {"encoder": encoder, "skipped": skipped, "shapes": [a.shape[1:] for a in arrays]}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(notes).encode()})
    path = f"{folder.rstrip('/')}/{_hash(sorted([*ids, *skipped]))[:16]}.arrow"
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
        writer.write_table(table, max_chunksize=max(1, len(table)))  # one batch, one memory map


def _hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def read_shards(
    folder: str | os.PathLike, encoder: dict[str, Any] | None = None, *, mend: bool = False
) -> Features:
    """Read which images the shards hold; features and grids are read from disk when used.

    Args:
        folder: of `write_shard`. From an object store only the ids are read: see `local_copy`.
        encoder: of `describe`, which all shards must have; None requires only that they agree.
        mend: whether to set damaged shards aside, for their images to be encoded again.

    Returns:
        `Features` whose `matrix` is a `LazyRows` (n, d), or None from an object store. An image in
        two shards counts once.

    Raises:
        UserError: a shard is damaged (without `mend`) or another encoder's, or there is none.
    """
    fs, place = filesystem(str(folder))
    paths = _listed(fs, place)
    if not paths and not mend:
        raise UserError(f"{folder} holds no shards (*.arrow). Make them first: docs/scaling.md.")
    with ThreadPoolExecutor(16) as pool:  # object stores answer slowly
        opened = pool.map(lambda path: _opened(fs, path, mend), paths)
        shards = [shard for shard in opened if shard]
    expected = encoder or (shards[0][1]["encoder"] if shards else {})
    for path, notes, _ in shards:
        for key, value in expected.items():
            if (actual := notes["encoder"].get(key)) != value:
                raise UserError(
                    f"{path} holds features of another encoder ({key}: {actual!r}, expected "
                    f"{value!r}). Choose another folder, or the encoder that it belongs to."
                )
    return _joined(shards, expected)


def _joined(shards: list[tuple[str, dict, dict]], encoder: dict[str, Any]) -> Features:
    names = [name for *_, columns in shards for name in columns["id"]]
    row: dict[str, int] = {}
    for i, name in enumerate(names):
        row.setdefault(name, i)
    ids, rows = list(row), np.array(list(row.values()), np.int64)
    reasons = {name: reason for _, notes, _ in shards for name, reason in notes["skipped"].items()}
    skipped = {name: reason for name, reason in reasons.items() if name not in row}
    identity = json.dumps(encoder, sort_keys=True) + _hash(ids)

    def lazy(column: str) -> LazyRows | None:
        arrays = [columns[column] for *_, columns in shards if column in columns]
        values = cast(np.ndarray, Stacked(arrays))
        return LazyRows(values, rows, identity=f"{column} {identity}") if arrays else None

    return Features(ids, lazy("features"), encoder, skipped, lazy("grid"))


def _opened(fs: Any, path: str, mend: bool) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """Return a shard's path, notes and columns; None if it was damaged and set aside."""
    import pyarrow as pa

    local = is_local(fs)
    try:
        with pa.memory_map(path) if local else fs.open(path, block_size=1 << 16) as source:
            ids_only = pa.ipc.IpcReadOptions(included_fields=[0])  # as little as can be fetched
            options = pa.ipc.IpcReadOptions() if local else ids_only
            table = pa.ipc.open_file(source, options=options).read_all()
        notes = json.loads(table.schema.metadata[KEY])
        columns: dict[str, Any] = {"id": table["id"].to_pylist()}
        for column, shape in zip(COLUMNS, notes["shapes"] if local else (), strict=False):
            flat = [part.flatten().to_numpy(zero_copy_only=True) for part in table[column].chunks]
            columns[column] = flat[0].reshape(-1, *shape) if flat else np.empty((0, *shape), "f2")
        return path, notes, columns
    except Exception as error:  # a damaged file can raise nearly anything
        if not mend:
            raise DamagedFile(path, first_line(error), "Make its features again.") from error
        fs.mv(path, f"{path}.damaged")
        print(f"{path} is damaged ({first_line(error)}) and was set aside.")
        print("Its images are encoded again.")
        return None


def local_copy(url: str, folder: str | os.PathLike) -> str:
    """Copy the shards of an object store that `folder` lacks, and return `folder`.

    The URL of a local folder is returned as it is.
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
    """Return fsspec's file system for a path or URL, and the path in it.

    Raises:
        UserError: a package is missing, or there is no such kind of URL.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be opened ({first_line(error)}). {INSTALL}") from error


def is_local(fs: Any) -> bool:
    """Return whether a file system is this machine's own."""
    return "file" in fs.protocol
