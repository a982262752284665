"""Features of images by id: in memory or in shards, their grids on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roco_caption.files import UserError
from roco_caption.grids import Grid

SAMPLE = 4096  # images are enough to know by how much features vary


@dataclass
class Features:
    """Image features by id.

    Attributes:
        ids: one a row, unique.
        matrix: float16 (n, d); or a `Grid` of that shape, where they lie in shards.
        encoder: what made them: name, layer, weights, image size, preprocessing, versions.
        skipped: {id: reason} for images that could not be decoded.
        grid: the same images' grids in the same order, or None.
    """

    ids: list[str]
    matrix: Any
    encoder: dict[str, Any]
    skipped: dict[str, str]
    grid: Grid | None = None

    def __post_init__(self) -> None:
        self._row = {name: i for i, name in enumerate(self.ids)}

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def select(self, ids: Sequence[str]) -> np.ndarray:
        """Return the features of these images in this order, float16 (len(ids), d).

        Raises:
            UserError: an id has no features; it is named.
        """
        return self.matrix[self._rows(ids)]

    def select_rows(self, ids: Sequence[str]) -> Grid:
        """Return the features of these images in this order; they are read when they are used.

        Raises:
            UserError: an id has no features; it is named.
        """
        kept = isinstance(self.matrix, Grid)
        rows = self.matrix if kept else Grid(self.matrix, np.arange(len(self.ids)))
        return rows.take(self._rows(ids))

    def select_grid(self, ids: Sequence[str]) -> Grid:
        """Return the grids of these images in this order; they are read when they are used.

        Raises:
            UserError: an id has no features, or the features have no grids.
        """
        if self.grid is None:
            raise UserError(
                "These features have no grids, which ATTENTION needs. Set GRID_FILE beside "
                "FEATURES_FILE, or leave both empty."
            )
        return self.grid.take(self._rows(ids))

    def _rows(self, ids: Sequence[str]) -> np.ndarray:
        missing = [name for name in ids if name not in self._row]
        if missing:
            raise UserError(f"{len(missing)} images have no features, {missing[0]} among them.")
        return np.array([self._row[name] for name in ids], np.int64)


def side_by_side(parts: Sequence[Features]) -> Features:
    """Join several encoders' features of the same images, so that each of them counts as much.

    What the scaler keeps of them is what varies most, so the features of all but the first are
    multiplied to vary as much in all as those of the first.

    Args:
        parts: one or more, of any lengths d.

    Returns:
        The features of the images that all have, float16 (n, the sum of d); the first one's grids.

    Raises:
        UserError: there is no such image.
    """
    first, *others = parts
    if not others:
        return first
    ids = [name for name in first.ids if all(name in part for part in others)]
    if not ids:
        files = ", ".join(part.encoder["name"] for part in parts)
        raise UserError(f"No image has features in all of {files}: do they name images alike?")
    rows = sampled(len(ids), SAMPLE)

    def spread(matrix: np.ndarray) -> float:
        return float(matrix[rows].astype(np.float32).var(axis=0).sum())

    kept, *blocks = (part.select(ids) for part in parts)
    wanted = spread(kept)
    for i, block in enumerate(blocks):
        times = np.float32((wanted / max(spread(block), 1e-12)) ** 0.5)
        blocks[i] = to_float16(block * times)
    without = {name: "not in every file of FEATURES_FILE" for name in set(first.ids) - set(ids)}
    encoder = {
        "name": "+".join(part.encoder["name"] for part in parts),
        "layer": "given",
        "weights": "; ".join(part.encoder["weights"] for part in parts),
    }
    grid = first.select_grid(ids) if first.grid is not None else None
    return Features(ids, np.hstack([kept, *blocks]), encoder, first.skipped | without, grid)


def sampled(count: int, most: int) -> slice:
    """Return which of so many rows to look at: all, or at most so many that are evenly spread."""
    return slice(None, None, max(1, -(-count // most)))


def to_float16(rows: np.ndarray) -> np.ndarray:
    """Return the features in half precision, those beyond its range at its ends."""
    limit = np.finfo(np.float16).max
    return np.clip(np.asarray(rows, np.float32), -limit, limit).astype(np.float16)
