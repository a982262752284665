"""The pickle that keeps features while they are made and after, and the parts that it grows by."""

from __future__ import annotations

import json
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import aside_of, atomic_open, remove_leftovers, set_aside
from roco_caption.core.pickles import read_pickle, write_pickle
from roco_caption.features.table import Features, LazyRows, to_float16

FLUSH_SECONDS = 5  # what a kill can cost
CHECKSUMS = "grid_crc32"  # the pickle's key of what `write_grid` returns


class FeatureCache:
    """The cache while it grows: one pickle, and beside it a folder of parts not yet joined.

    Where the header names a grid, an .npy of the images' grids lies beside each pickle. It is
    written first, so that a pickle's grids are always there, perhaps with more behind them.
    """

    def __init__(self, cache: Path, header: dict[str, Any]) -> None:
        self.cache, self.header = cache, header
        self._grid = "grid" in header
        self.folder = cache.with_suffix(".parts")
        self._ids: list[str] = []
        self._rows: list[np.ndarray] = []
        self._grids: list[np.ndarray] = []
        self._skipped: dict[str, str] = {}
        self._flushed = time.monotonic()

    def load(self) -> Features:
        """Read the cache and the parts beside it; what is damaged is set aside.

        Raises:
            UserError: one of them is no cache, or belongs to another encoder.
        """
        return _join(self._pieces(), self.header)

    def _pieces(self, check: bool = False) -> list[Features]:
        pieces = []
        for path in (self.cache, *sorted(self.folder.glob("*.pkl"))):
            try:
                if path.exists():
                    pieces.append(self._read(path, check))
            except DamagedFile as error:
                set_aside(path, error.why, "Its images are encoded again.")
        return pieces

    def _read(self, path: Path, check: bool) -> Features:
        value = read_pickle(path)
        piece = _checked(value, self.header, path)
        return self._with_grid(piece, value.get(CHECKSUMS), path, check) if self._grid else piece

    def _with_grid(self, piece: Features, checksums: Any, path: Path, check: bool) -> Features:
        """Add the grids of a piece; without the images whose grids are damaged, if asked to."""
        if not isinstance(checksums, np.ndarray) or checksums.shape != (len(piece.ids),):
            raise DamagedFile(path, "its grids have no checksums", "")
        place = path.with_suffix(".npy")
        if not place.exists() and aside_of(place).exists():  # while it was used
            place, check = aside_of(place), True
        values, rows = GridFile(place, checksums), np.arange(len(piece.ids))
        if check and len(damaged := values.damaged(rows)):
            print(f"{len(damaged):,} grids in {place} are damaged. Their images are encoded again.")
            rows = np.setdiff1d(rows, damaged)
            ids = [piece.ids[row] for row in rows]
            piece = replace(piece, ids=ids, matrix=piece.matrix[rows])
        return replace(piece, grid=self._as_grid(values, rows))

    def _as_grid(self, values: GridFile, rows: np.ndarray) -> LazyRows:
        # not `Features.encoder`: its versions are not there yet while the cache is made
        return LazyRows(values, rows, identity=json.dumps(self.header, sort_keys=True))

    @property
    def unjoined(self) -> bool:
        """Whether parts wait to be joined."""
        return self.folder.exists()

    def add(self, ids: list[str], rows: np.ndarray, grids: np.ndarray | None = None) -> None:
        """Take the features of some images; write a part every few seconds.

        Args:
            ids: n images.
            rows: float (n, d).
            grids: float (n, cells, channels), where the header names a grid.
        """
        self._ids += ids
        self._rows.append(to_float16(rows))
        if grids is not None:
            self._grids.append(to_float16(grids))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def skip(self, reasons: dict[str, str]) -> None:
        """Take images that have no features, {id: reason}."""
        self._skipped |= reasons

    def flush(self) -> None:
        """Write what has come since the last part."""
        if self._ids or self._skipped:
            rows = np.concatenate(self._rows) if self._rows else np.empty((0, 0), np.float16)
            part = self.folder / f"{time.time_ns()}.pkl"
            value = _as_value(Features(self._ids, rows, self.header, self._skipped))
            if self._grid:
                whole = np.concatenate(self._grids) if self._grids else np.empty((0, 0, 0))
                place = part.with_suffix(".npy")
                value[CHECKSUMS] = write_grid(place, iter([whole]), whole.shape)
            write_pickle(part, value, size=rows.nbytes)
        self._ids, self._rows, self._grids, self._skipped = [], [], [], {}
        self._flushed = time.monotonic()

    def join(self) -> Features:
        """Put the cache and its parts into one pickle, and their grids into one .npy.

        Returns:
            The features of all; images whose part or grid turned out damaged are not among them.
        """
        pieces = self._pieces(check=True)
        features = _join(pieces, self.header)
        remove_leftovers(self.cache)
        value = _as_value(features, _versions())
        if self._grid:
            path = self.cache.with_suffix(".npy")
            remove_leftovers(path)
            shapes = (piece.grid.shape[1:] for piece in pieces if piece.grid is not None)
            cells = max(shapes, default=(0, 0))
            value[CHECKSUMS] = write_grid(path, _grid_blocks(pieces), (len(features.ids), *cells))
            values = GridFile(path, value[CHECKSUMS])
            features.grid = self._as_grid(values, np.arange(len(features.ids)))
        write_pickle(self.cache, value, size=features.matrix.nbytes)
        shutil.rmtree(self.folder, ignore_errors=True)
        return features


def _as_value(features: Features, versions: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "encoder": features.encoder | (versions or {}),
        "ids": features.ids,
        "features": features.matrix,
        "skipped": features.skipped,
    }


def _versions() -> dict[str, str]:
    import keras

    from roco_caption import __version__

    return {"keras": keras.__version__, "roco_caption": __version__}


def _checked(value: Any, header: dict[str, Any], path: Path) -> Features:
    try:
        ids, matrix, encoder, skipped = (
            value[key] for key in ("ids", "features", "encoder", "skipped")
        )
        matrix = np.asarray(matrix)
        whole = isinstance(ids, list) and all(isinstance(name, str) for name in ids)
        whole = whole and len(set(ids)) == len(ids) == len(matrix)
        whole = whole and matrix.dtype == np.float16 and matrix.ndim == 2
        whole = whole and isinstance(encoder, dict) and isinstance(skipped, dict)
    except (LookupError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is no feature cache. Delete it and run this cell again.")
    for key, wanted in header.items():
        found = encoder.get(key)
        found = found if isinstance(found, str | int | None) else type(found)
        if found != wanted:
            raise UserError(
                f"{path} holds features of another encoder ({key}: {found!r}, wanted {wanted!r}). "
                "Move it away, or choose the encoder that it belongs to."
            )
    return Features(ids, matrix, encoder, skipped)


def _places(pieces: list[Features]) -> dict[str, tuple[int, int]]:
    """Return for each id the piece and the row in it that hold its features."""
    return {name: (i, j) for i, piece in enumerate(pieces) for j, name in enumerate(piece.ids)}


def _grid_blocks(pieces: list[Features]) -> Iterator[np.ndarray]:
    """Yield the grids of all pieces in the order of `_join`, never many of them at once."""
    places = list(_places(pieces).values())
    grids: list[Any] = [piece.grid for piece in pieces]
    for start in range(0, len(places), BLOCK):
        yield np.stack([grids[i][j] for i, j in places[start : start + BLOCK]])


def _join(pieces: list[Features], header: dict[str, Any]) -> Features:
    rows = _places(pieces)
    skipped = {name: reason for piece in pieces for name, reason in piece.skipped.items()}
    skipped = {name: reason for name, reason in skipped.items() if name not in rows}
    if len(pieces) == 1:
        return pieces[0]
    width = max((piece.matrix.shape[1] for piece in pieces), default=0)
    matrix = np.empty((len(rows), width), np.float16)
    for row, (i, j) in enumerate(rows.values()):
        matrix[row] = pieces[i].matrix[j]
    return Features(list(rows), matrix, header, skipped)


BLOCK = 256  # images copied or averaged at once: 13 MB of VGG16's grids
REMEDY = "Delete it and the pickle beside it, and run this cell again."


class GridFile:
    """An .npy of grids, mapped into memory; each is compared with its checksum when first read.

    All at once would be to read 4.1 GB of ROCO's before the first is used.

    Args:
        path: of `write_grid`.
        checksums: what that returned; the file may hold more grids behind these.

    Raises:
        DamagedFile: the file is missing, cut short, or holds something else.
    """

    def __init__(self, path: Path, checksums: np.ndarray) -> None:
        self.path, self.checksums = path, checksums
        self._values = _mapped(path)
        if len(self._values) < len(checksums):
            raise DamagedFile(path, "it lacks grids", REMEDY)
        self.shape = (len(checksums), *self._values.shape[1:])
        self._unread = np.ones(len(checksums), bool)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return the grids of these rows, float16 (..., cells, channels).

        Raises:
            UserError: one is damaged; the file was set aside.
        """
        if len(self.damaged(rows)):
            set_aside(self.path, "grids in it differ from their checksums", "")
            raise UserError(
                f"Grids in {self.path} are damaged. Run the cell that makes the features again: it "
                "encodes the damaged images anew and keeps the others; then the cells after it."
            )
        return self._values[rows]

    def damaged(self, rows: Any) -> np.ndarray:
        """Return which of these rows differ from their checksums, int64 (k,)."""
        rows = np.unique(rows)
        bad = [
            row for row in rows[self._unread[rows]]
            if zlib.crc32(self._values[row]) != self.checksums[row]
        ]  # fmt: skip
        self._unread[rows] = False
        self._unread[bad] = True
        return np.array(bad, np.int64)


def write_grid(path: Path, blocks: Iterator[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """Write an .npy of grids that need not fit into memory, whole or not at all.

    Args:
        path: the file; `GridFile` opens it.
        blocks: float16 (k, cells, channels) each, in order.
        shape: of all together.

    Returns:
        The CRC-32 of each grid, uint32 (n,).
    """
    checksums = []
    kind = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
    with atomic_open(path) as file:
        np.lib.format.write_array_header_1_0(file, kind | {"shape": shape})
        for block in blocks:
            block = block.astype(np.float16)
            file.write(block.tobytes())
            checksums += [zlib.crc32(grid.tobytes()) for grid in block]
    return np.array(checksums, np.uint32)


def _mapped(path: Path) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.dtype != np.float16 or values.ndim != 3:
            raise ValueError("it must hold float16 (images, cells, channels)")
        return values
    except (OSError, ValueError, EOFError) as error:
        raise DamagedFile(path, error, REMEDY) from error
