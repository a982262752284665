"""Grid features: what an encoder saw in each part of an image, read a batch at a time."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.files import DamagedFile, UserError, atomic_open, set_aside
from roco_caption.named_arrays import read_named
from roco_caption.sealed import checksum

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


@dataclass(frozen=True)
class Grid:
    """Grids of some images, in memory only where they are asked for.

    Indexing a `Grid` as one would an array reads those rows alone.

    Attributes:
        values: float16 or int8 (m, cells, channels), the cells of an image row by row.
        rows: int64 (n,), which of `values` these images' are.
        scale: float32 (channels,) to multiply int8 values with, or None.
        identity: what the values are, for telling whether a training saw the same ones.
    """

    values: np.ndarray | GridFile
    rows: np.ndarray
    scale: np.ndarray | None = None
    identity: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.rows), *self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Return the grids at a slice or an array of places, float32 (..., cells, channels)."""
        read = np.asarray(self.values[self.rows[places]], np.float32)
        return read if self.scale is None else read * self.scale

    def take(self, places: np.ndarray) -> Grid:
        """Return the `Grid` of these places, int (k,), without reading any."""
        return Grid(self.values, self.rows[places], self.scale, self.identity)

    def mean(self, axis: int = 0, keepdims: bool = True) -> np.ndarray:
        """Return the average image's grid, float32 (1, cells, channels), block by block."""
        starts = range(0, len(self), BLOCK)
        return sum(self[i : i + BLOCK].sum(axis=0, keepdims=True) for i in starts) / len(self)

    def digest(self) -> bytes:
        """Return what tells these grids from others, without reading them."""
        # by their content where that is known, wherever in the file they lie
        values, rows = self.values, self.rows
        which = values.checksums[rows] if isinstance(values, GridFile) else rows
        return hashlib.sha256(self.identity.encode() + which.tobytes()).digest()


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


def read_grid_file(path: str | os.PathLike) -> tuple[list[str], Grid]:
    """Read grids that were computed elsewhere.

    Args:
        path: an .npz with `names` (the images' file stems, n), `grid` (n, cells, channels) and,
            where that holds whole numbers, `scale` (channels,) to multiply it with.

    Returns:
        The names, and the `Grid` of those images in that order.

    Raises:
        UserError: the file is missing or is no such .npz.
    """
    names, arrays = read_named(path, "GRID_FILE", "grid", ("cells", "channels"))
    values, scale = arrays["grid"], arrays.get("scale")
    if scale is not None and scale.shape != values.shape[2:]:
        raise UserError(f"GRID_FILE {path} was not read: `scale` must hold one number a channel.")
    scale = None if scale is None else scale.astype(np.float32)
    print(f"Grids of {len(names):,} images ({values.shape[1]} cells each) read from {path}")
    return names, Grid(values, np.arange(len(names)), scale, f"sha256 {checksum(path)}")
