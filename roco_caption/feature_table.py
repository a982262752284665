"""Features of images by id: in memory or in shards, their grids on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roco_caption.files import UserError
from roco_caption.grids import Grid


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
