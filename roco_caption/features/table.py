"""Features of images by id: in memory or in shards, their grids on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError

SAMPLE = 4096  # images are enough to know by how much features vary


@dataclass
class Features:
    """Image features by id.

    Attributes:
        ids: one a row, unique.
        matrix: float16 (n, d); or a `LazyRows` of that shape, where they lie in shards.
        encoder: what made them: name, layer, weights, image size, preprocessing, versions.
        skipped: {id: reason} for images that could not be decoded.
        grid: the same images' grids in the same order, or None.
    """

    ids: list[str]
    matrix: Any
    encoder: dict[str, Any]
    skipped: dict[str, str]
    grid: LazyRows | None = None

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

    def select_rows(self, ids: Sequence[str]) -> LazyRows:
        """Return the features of these images in this order; they are read when they are used.

        Raises:
            UserError: an id has no features; it is named.
        """
        kept = isinstance(self.matrix, LazyRows)
        rows = self.matrix if kept else LazyRows(self.matrix, np.arange(len(self.ids)))
        return rows.take(self._rows(ids))

    def select_grid(self, ids: Sequence[str]) -> LazyRows:
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


BLOCK = 256  # images averaged at once


@dataclass(frozen=True)
class LazyRows:
    """Grids of some images, in memory only where they are asked for.

    Indexing a `LazyRows` as one would an array reads those rows alone.

    Attributes:
        values: float16 or int8 (m, cells, channels), the cells of an image row by row.
        rows: int64 (n,), which of `values` these images' are.
        scale: float32 (channels,) to multiply int8 values with, or None.
        identity: what the values are, for telling whether a training saw the same ones.
    """

    values: Any
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

    def take(self, places: np.ndarray) -> LazyRows:
        """Return the `LazyRows` of these places, int (k,), without reading any."""
        return LazyRows(self.values, self.rows[places], self.scale, self.identity)

    def mean(self, axis: int = 0, keepdims: bool = True) -> np.ndarray:
        """Return the average image's grid, float32 (1, cells, channels), block by block."""
        starts = range(0, len(self), BLOCK)
        return sum(self[i : i + BLOCK].sum(axis=0, keepdims=True) for i in starts) / len(self)

    def digest(self) -> bytes:
        """Return what tells these grids from others, without reading them."""
        # by their content where that is known, wherever in the file they lie
        values, rows = self.values, self.rows
        checksums = getattr(values, "checksums", None)
        which = rows if checksums is None else checksums[rows]
        return hashlib.sha256(self.identity.encode() + which.tobytes()).digest()


def arrays_of(features: Any) -> tuple[Any, ...]:
    """Return what describes the images: their features, and with attention their grids.

    Args:
        features: float (n, d); or a pair of them and a `LazyRows` or array (n, cells, channels).
    """
    return features if isinstance(features, tuple) else (features,)


def mean_image(features: Any) -> tuple[np.ndarray, ...]:
    """Return the average image's features, each kind (1, ...), of what `arrays_of` takes."""
    return tuple(array.mean(axis=0, keepdims=True) for array in arrays_of(features))


def with_features(
    frames: dict[str, pd.DataFrame], features: Features
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray], list[str]]:
    """Keep the images that have features.

    Args:
        frames: {split: DataFrame[id, image, caption]}.
        features: of their images.

    Returns:
        The frames without the images that have none; {split: float16 (n, d)} in the frames'
        order; and a line for each image left out: its id and the reason.

    Raises:
        UserError: no image of a split has features.
    """
    has = {split: frame.id.map(features.__contains__) for split, frame in frames.items()}
    without = [
        f"{name}: {features.skipped.get(name, 'not among the features')}"
        for split, frame in frames.items()
        for name in frame.id[~has[split]]
    ]
    kept = {split: frame[has[split]].reset_index(drop=True) for split, frame in frames.items()}
    for split, frame in kept.items():
        if frame.empty:
            raise UserError(
                f"No image of the {split} split has features. Check that FEATURES_FILE belongs to "
                f"this data set, and the images of the split: {without[:1]}."
            )
    return kept, {split: features.select(list(frame.id)) for split, frame in kept.items()}, without
