"""Grid features: what an encoder saw in each part of an image, read a batch at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.files import DamagedFile, UserError, atomic_open
from roco_caption.named_arrays import read_named
from roco_caption.sealed import checksum

BLOCK = 256  # images copied or averaged at once: 13 MB of VGG16's grids


@dataclass(frozen=True)
class Grid:
    """Grids of some images, in memory only where they are asked for.

    The grids of ROCO's 82,000 images are 4.1 GB: `values` is a memory map, and indexing a `Grid` as
    one would an array reads those rows alone.

    Attributes:
        values: float16 or int8 (m, cells, channels), the cells of an image row by row.
        rows: int64 (n,), which of `values` these images' are.
        scale: float32 (channels,) to multiply int8 values with, or None.
        identity: what the values are, for telling whether a training saw the same ones.
    """

    values: np.ndarray
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
        return hashlib.sha256(self.identity.encode() + self.rows.tobytes()).digest()


def write_grid(path: Path, blocks: Iterator[np.ndarray], shape: tuple[int, int, int]) -> None:
    """Write an .npy of grids that need not fit into memory, whole or not at all.

    Args:
        path: the file; `np.load(path, mmap_mode="r")` opens it.
        blocks: float16 (k, cells, channels) each, in order.
        shape: of all together.
    """
    kind = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
    with atomic_open(path) as file:
        np.lib.format.write_array_header_1_0(file, kind | {"shape": shape})
        for block in blocks:
            file.write(block.astype(np.float16).tobytes())


def read_grid(path: Path) -> np.ndarray:
    """Map an .npy of grids into memory.

    Raises:
        DamagedFile: the file is missing, damaged or cut short.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.dtype != np.float16 or values.ndim != 3:
            raise ValueError("it must hold float16 (images, cells, channels)")
        return values
    except (OSError, ValueError, EOFError) as error:
        remedy = "Delete it and the pickle beside it, and run this cell again."
        raise DamagedFile(path, error, remedy) from error


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
