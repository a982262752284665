"""The feature cache: one pickle per encoder, and the parts that it grows by."""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from roco_caption import __version__
from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import aside_of, atomic_open, remove_leftovers, set_aside
from roco_caption.core.pickles import read_pickle, write_pickle
from roco_caption.features.files import FileMark
from roco_caption.features.table import GRID_BLOCK, Features, LazyRows, concatenated, to_float16

FLUSH_SECONDS = 5  # what a kill can cost
PARTS = ".parts"  # the folder of a cache that grows
NO_ROWS = np.empty((0, 0), np.float16)
CHECKSUMS = "grid_crc32"  # the pickle's key of the checksums that `write_grid` returns


class FeatureCache:
    """One pickle, after an .npy if `header` names a grid, and beside it parts not yet joined."""

    def __init__(self, path: Path, header: dict[str, Any], precision: str = "float32") -> None:
        self.path, self.header = path, header | {"precision": precision}
        self.folder = path.with_suffix(PARTS)
        self.files: dict[str, FileMark] = {}  # of images that were encoded or looked for
        self._identity = json.dumps(header, sort_keys=True)
        self._clear()

    def _clear(self) -> None:
        self._added: list[tuple[list[str], list[np.ndarray], dict[str, str]]] = []
        self._flushed = time.monotonic()

    def load(self, *, verify: bool = False) -> Features:
        """Read the pickle and its parts; `verify` leaves out images with damaged grids."""
        pieces = []
        for path in (self.path, *sorted(self.folder.glob("*.pkl"))):
            try:
                if path.exists():
                    pieces.append(self._read(path, verify))
            except DamagedFile as error:
                set_aside(path, error.why, "Its images are encoded again.")
        if len(pieces) < 2:
            return pieces[0] if pieces else Features([], NO_ROWS, self.header, {})
        features = concatenated(pieces, self.header)
        features.matrix = features.matrix.values[features.matrix.rows]
        return features

    def add(
        self, ids: list[str], *arrays: np.ndarray, skipped: dict[str, str] | None = None
    ) -> None:
        """Add features, grids if any, and {id: reason} for images without; flush in time."""
        rows = [to_float16(array) for array in arrays]
        self._added.append((ids, rows, skipped or {}))  # at once, for an interrupt
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part as a new part."""
        ids = [name for names, _, _ in self._added for name in names]
        skipped = {name: why for _, _, reasons in self._added for name, why in reasons.items()}
        if ids or skipped:
            blocks = [rows for _, rows, _ in self._added if rows]
            arrays: list[Any] = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
            rows, *grids = arrays or [NO_ROWS]
            part = Features(ids, rows, self.header, skipped, *grids)
            self._write(self.folder / f"{time.time_ns()}.pkl", part)
        self._clear()

    def join(self) -> Features:
        """Write all into one pickle and one .npy, and return it, without damaged parts or grids."""
        features = self.load(verify=True)
        versions = {"keras": keras.__version__, "roco_caption": __version__}
        features.encoder = features.encoder | versions
        remove_leftovers(self.path.with_suffix(".*"))  # .pkl and .npy
        checksums = self._write(self.path, features)
        if checksums is not None:
            features.grid = self._grids(self.path.with_suffix(".npy"), checksums)
        shutil.rmtree(self.folder, ignore_errors=True)
        return features

    def remember(self, features: Features) -> None:
        """Write the pickle of `load` again if image files have new times, or do without.

        The pickle keeps its own time, so that a copy on a drive is not replaced.
        """
        if self._mark(features):
            with suppress(UserError, OSError):  # a full disk, or one that cannot be written
                written = self.path.stat().st_mtime_ns
                grids = features.grid and features.grid.values
                self._write(self.path, features, getattr(grids, "checksums", None))
                os.utime(self.path, ns=(written, written))

    def _mark(self, features: Features) -> bool:
        """Enter `self.files`; return whether any were different."""
        before = features.files
        marks = [self.files.get(name, before[i]) for i, name in enumerate(features.ids)]
        features.files = np.array(marks, np.int64).reshape(-1, 3)
        return not np.array_equal(before, features.files)

    def _write(
        self, path: Path, features: Features, checksums: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Write features and, unless their checksums are given, grids; return the checksums."""
        self._mark(features)
        value = {
            "encoder": features.encoder, "ids": features.ids, "features": features.matrix,
            "skipped": features.skipped, "files": features.files,
        }  # fmt: skip
        if "grid" in self.header:
            grids = np.empty((0, 0, 0)) if features.grid is None else features.grid
            if checksums is None:
                checksums = write_grid(path.with_suffix(".npy"), grids)
            value[CHECKSUMS] = checksums
        write_pickle(path, value, size=features.matrix.nbytes)
        return checksums

    def _grids(self, path: Path, checksums: np.ndarray) -> LazyRows:
        rows = np.arange(len(checksums))
        return LazyRows(GridFile(path, checksums), rows, identity=self._identity)

    def _read(self, path: Path, verify: bool) -> Features:
        value = read_pickle(path)
        piece = _checked(value, path)
        piece.require_encoder(path, self.header, "Move it away, or choose another CACHE_DIR")
        if "grid" not in self.header:
            return piece
        checksums = value.get(CHECKSUMS)
        if np.shape(checksums) != (len(piece.ids),):
            raise DamagedFile(path, "its grids have no checksums", "")
        grid_path = path.with_suffix(".npy")
        if not grid_path.exists() and aside_of(grid_path).exists():  # set aside by `GridFile`
            grid_path, verify = aside_of(grid_path), True
        piece.grid = self._grids(grid_path, checksums)
        if verify and len(damaged := piece.grid.values.damaged(piece.grid.rows)):
            print(f"{len(damaged):,} grids in {grid_path} are damaged; they are encoded again.")
            rows = np.setdiff1d(piece.grid.rows, damaged)
            return replace(
                piece, ids=[piece.ids[row] for row in rows], matrix=piece.matrix[rows],
                grid=piece.grid.take(rows), files=piece.files[rows],
            )  # fmt: skip
        return piece


def _checked(value: Any, path: Path) -> Features:
    with suppress(TypeError, AttributeError, LookupError):
        ids, matrix, skipped = value["ids"], value["features"], value["skipped"]
        encoder = {"precision": "float32"} | value["encoder"]  # older files lack precision, marks
        features = Features(ids, matrix, encoder, skipped, files=value.get("files"))
        if (
            isinstance(ids, list) and isinstance(skipped, dict)
            and all(isinstance(name, str) for name in ids)
            and len(set(ids)) == len(ids) == len(matrix)
            and (matrix.dtype, matrix.ndim) == (np.float16, 2)
            and (features.files.dtype, features.files.shape) == (np.int64, (len(ids), 3))
        ):  # fmt: skip
            return features
    if path.parent.suffix == PARTS:
        raise DamagedFile(path, "it is no part of a feature cache", "")
    raise UserError(f"{path} is not a feature cache. Delete it, then run this cell again.")


class GridFile:
    """A memory-mapped .npy of `write_grid`; each grid is verified when it is first read."""

    def __init__(self, path: Path, checksums: np.ndarray) -> None:
        self.path, self.checksums = path, checksums
        try:
            self._values = np.load(path, mmap_mode="r", allow_pickle=False)
            kind = self._values.dtype, self._values.ndim
            if kind != (np.float16, 3) or len(self._values) < len(checksums):
                raise ValueError(f"it must hold float16 ({len(checksums)}, cells, channels)")
        except (OSError, ValueError, EOFError) as error:
            remedy = "Delete it and the pickle beside it, then run this cell again."
            raise DamagedFile(path, error, remedy) from error
        self.shape = (len(checksums), *self._values.shape[1:])
        self._unverified = np.ones(len(checksums), bool)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return the grids of these rows, float16; if one is damaged, set the file aside."""
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


def write_grid(path: Path, grids: Any) -> np.ndarray:
    """Write grids (n, cells, channels) block by block, and return their CRC-32s, uint32 (n,)."""
    checksums = []
    with atomic_open(path) as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": grids.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(grids), GRID_BLOCK):
            block = np.ascontiguousarray(grids[start : start + GRID_BLOCK], "<f2")
            file.write(block.tobytes())
            checksums += [zlib.crc32(grid) for grid in block]
    return np.array(checksums, np.uint32)
