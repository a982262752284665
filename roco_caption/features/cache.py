"""The feature cache: one pickle per encoder, and the parts that it grows by."""

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
from roco_caption.features.table import GRID_BLOCK, Features, LazyRows, to_float16

FLUSH_SECONDS = 5  # what a kill can cost
CHECKSUMS = "grid_crc32"  # the pickle's key of the checksums that `write_grid` returns


class FeatureCache:
    """One pickle, and beside it a folder of parts that are not yet joined.

    If `header`, of `describe`, names a grid, an .npy of grids belongs to each pickle. It is written
    first, so it never lacks grids of its pickle; it may hold more.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.folder = path.with_suffix(".parts")
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._rows: list[np.ndarray] = []
        self._grids: list[np.ndarray] = []
        self._skipped: dict[str, str] = {}
        self._flushed = time.monotonic()

    @property
    def unjoined(self) -> bool:
        return self.folder.exists()

    def load(self) -> Features:
        """Read the pickle and its parts; damaged files are set aside.

        Raises:
            UserError: a file is not a feature cache, or is another encoder's.
        """
        return _joined(self._pieces(), self.header)

    def add(self, ids: list[str], rows: np.ndarray, grids: np.ndarray | None = None) -> None:
        """Add features, float (n, d), and grids, float (n, cells, channels); flush in time."""
        self._ids += ids
        self._rows.append(to_float16(rows))
        if grids is not None:
            self._grids.append(to_float16(grids))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def skip(self, reasons: dict[str, str]) -> None:
        """Add images that have no features, {id: reason}."""
        self._skipped |= reasons

    def flush(self) -> None:
        """Write what was added since the last part as a new part."""
        if self._ids or self._skipped:
            path = self.folder / f"{time.time_ns()}.pkl"
            rows = np.concatenate(self._rows) if self._rows else np.empty((0, 0), np.float16)
            grids = np.concatenate(self._grids) if self._grids else np.empty((0, 0, 0))
            part = Features(self._ids, rows, self.header, self._skipped)
            self._write(path, part, iter([grids]), grids.shape)
        self._clear()

    def join(self) -> Features:
        """Write all into one pickle and one .npy, and return it, without damaged parts or grids."""
        import keras

        from roco_caption import __version__

        pieces = self._pieces(verify=True)
        features = _joined(pieces, self.header)
        versions = {"keras": keras.__version__, "roco_caption": __version__}
        features.encoder = features.encoder | versions
        remove_leftovers(self.path)
        remove_leftovers(self.path.with_suffix(".npy"))
        shapes = (piece.grid.shape[1:] for piece in pieces if piece.grid is not None)
        shape = (len(features.ids), *max(shapes, default=(0, 0)))
        checksums = self._write(self.path, features, _grid_blocks(pieces), shape)
        if checksums is not None:
            grids = GridFile(self.path.with_suffix(".npy"), checksums)
            features.grid = self._lazy(grids, np.arange(len(features.ids)))
        shutil.rmtree(self.folder, ignore_errors=True)
        return features

    def _write(
        self, path: Path, features: Features, blocks: Iterator[np.ndarray], shape: tuple[int, ...]
    ) -> np.ndarray | None:
        value = {
            "encoder": features.encoder, "ids": features.ids, "features": features.matrix,
            "skipped": features.skipped,
        }  # fmt: skip
        if "grid" in self.header:
            value[CHECKSUMS] = write_grid(path.with_suffix(".npy"), blocks, shape)
        write_pickle(path, value, size=features.matrix.nbytes)
        return value.get(CHECKSUMS)

    def _pieces(self, *, verify: bool = False) -> list[Features]:
        pieces = []
        for path in (self.path, *sorted(self.folder.glob("*.pkl"))):
            try:
                if path.exists():
                    pieces.append(self._read(path, verify))
            except DamagedFile as error:
                set_aside(path, error.why, "Its images are encoded again.")
        return pieces

    def _read(self, path: Path, verify: bool) -> Features:
        """Read a pickle, and leave out images with damaged grids if these are to be verified."""
        value = read_pickle(path)
        piece = _checked(value, self.header, path)
        if "grid" not in self.header:
            return piece
        checksums = value.get(CHECKSUMS)
        shape, kind = getattr(checksums, "shape", None), getattr(checksums, "dtype", None)
        if (shape, kind) != ((len(piece.ids),), np.uint32):
            raise DamagedFile(path, "its grids have no checksums", "")
        grid_path = path.with_suffix(".npy")
        if not grid_path.exists() and aside_of(grid_path).exists():  # set aside by `GridFile`
            grid_path, verify = aside_of(grid_path), True
        grids, rows = GridFile(grid_path, checksums), np.arange(len(piece.ids))
        damaged = grids.damaged(rows) if verify else ()
        if len(damaged):
            print(f"{len(damaged):,} grids in {grid_path} are damaged; they are encoded again.")
            rows = np.setdiff1d(rows, damaged)
            ids = [piece.ids[row] for row in rows]
            piece = replace(piece, ids=ids, matrix=piece.matrix[rows])
        return replace(piece, grid=self._lazy(grids, rows))

    def _lazy(self, grids: GridFile, rows: np.ndarray) -> LazyRows:
        return LazyRows(grids, rows, identity=json.dumps(self.header, sort_keys=True))


def _checked(value: Any, header: dict[str, Any], path: Path) -> Features:
    try:
        ids, matrix, encoder, skipped = (
            value[key] for key in ("ids", "features", "encoder", "skipped")
        )
        valid = (
            isinstance(ids, list)
            and all(isinstance(name, str) for name in ids)
            and len(set(ids)) == len(ids) == len(matrix)
            and (matrix.dtype, matrix.ndim) == (np.float16, 2)
            and isinstance(encoder, dict)
            and isinstance(skipped, dict)
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        valid = False
    if not valid:
        raise UserError(f"{path} is not a feature cache. Delete it, then run this cell again.")
    for key, expected in header.items():
        actual = encoder.get(key)
        if not isinstance(actual, str | int) or actual != expected:
            raise UserError(
                f"{path} holds features of another encoder ({key}: {actual!r}, expected "
                f"{expected!r}). Move it away, or choose the encoder that it belongs to."
            )
    return Features(ids, matrix, encoder, skipped)


def _places(pieces: list[Features]) -> dict[str, tuple[int, int]]:
    """Return {id: (piece, row)}; of an id in several pieces, the last."""
    return {name: (i, j) for i, piece in enumerate(pieces) for j, name in enumerate(piece.ids)}


def _joined(pieces: list[Features], header: dict[str, Any]) -> Features:
    """Return the features of all pieces; without grids unless there is only one."""
    if len(pieces) == 1:
        return pieces[0]
    places = _places(pieces)
    matrix = np.empty((len(places), max((p.matrix.shape[1] for p in pieces), default=0)), "f2")
    for row, (i, j) in enumerate(places.values()):
        matrix[row] = pieces[i].matrix[j]
    skipped = {name: reason for piece in pieces for name, reason in piece.skipped.items()}
    skipped = {name: reason for name, reason in skipped.items() if name not in places}
    return Features(list(places), matrix, header, skipped)


def _grid_blocks(pieces: list[Features]) -> Iterator[np.ndarray]:
    """Yield the grids of all pieces in the order of `_joined`, never many at once."""
    places = list(_places(pieces).values())
    grids: list[Any] = [piece.grid for piece in pieces]
    for start in range(0, len(places), GRID_BLOCK):
        yield np.stack([grids[i][j] for i, j in places[start : start + GRID_BLOCK]])


REMEDY = "Delete it and the pickle beside it, and run this cell again."


class GridFile:
    """A memory-mapped .npy of `write_grid`; each grid is verified when it is first read.

    Verifying everything up front would read 4.1 GB for ROCO. The file may hold more grids than
    there are checksums.

    Raises:
        DamagedFile: the file is missing, truncated, or does not hold grids.
    """

    def __init__(self, path: Path, checksums: np.ndarray) -> None:
        self.path, self.checksums = path, checksums
        try:
            self._values = np.load(path, mmap_mode="r", allow_pickle=False)
            if self._values.dtype != np.float16 or self._values.ndim != 3:
                raise ValueError("it must hold float16 (images, cells, channels)")
            if len(self._values) < len(checksums):
                raise ValueError("it lacks grids")
        except (OSError, ValueError, EOFError) as error:
            raise DamagedFile(path, error, REMEDY) from error
        self.shape = (len(checksums), *self._values.shape[1:])
        self._unverified = np.ones(len(checksums), bool)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return the grids of these rows, float16 (..., cells, channels).

        Raises:
            UserError: a grid is damaged; the file was set aside.
        """
        if len(self.damaged(rows)):
            set_aside(self.path, "grids in it differ from their checksums", "")
            raise UserError(
                f"Grids in {self.path} are damaged. Run the cell that makes the features again (it "
                "encodes only the damaged images), then the cells after it."
            )
        return self._values[rows]

    def damaged(self, rows: Any) -> np.ndarray:
        """Return which of these rows differ from their checksums, int64 (k,)."""
        rows = np.unique(rows)
        rows = rows[self._unverified[rows]]
        sums = np.array([zlib.crc32(self._values[row]) for row in rows], np.uint32)
        intact = sums == self.checksums[rows]
        self._unverified[rows[intact]] = False
        return rows[~intact]


def write_grid(path: Path, blocks: Iterator[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Write blocks of grids (k, cells, channels) to a float16 .npy of this shape (n, ...).

    Returns:
        The CRC-32 of each grid, uint32 (n,).
    """
    checksums = []
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    with atomic_open(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            block = np.ascontiguousarray(block, "<f2")
            file.write(block.tobytes())
            checksums += [zlib.crc32(grid) for grid in block]
    return np.array(checksums, np.uint32)
