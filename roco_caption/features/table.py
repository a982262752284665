"""Features of images by id; what attention sees is read from disk row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.features.files import UNKNOWN

GRID_BLOCK = 256  # grids in memory at once: 13 MB of VGG16's


@dataclass
class Features:
    """Image features by id."""

    ids: list[str]  # n unique ids
    matrix: Any  # float16 or, where that loses them, float32 (n, d), in memory or as `LazyRows`
    encoder: dict[str, Any]  # as `describe` returns it
    skipped: dict[str, str]  # {id: reason} for images that could not be decoded
    grid: LazyRows | None = None  # (n, cells, channels) of the same images
    files: Any = None  # the images' files, int64 (n, 3) of `file_mark`
    contents: str = ""  # a checksum of features and grids, where one is known without reading them

    def __post_init__(self) -> None:
        self._row = {name: i for i, name in enumerate(self.ids)}
        if self.files is None:
            self.files = np.full((len(self.ids), 3), UNKNOWN, np.int64)

    def __contains__(self, name: str) -> bool:
        return name in self._row

    def untried(self, ids: Iterable[str]) -> list[str]:
        """Return the ids of images that have neither features nor a reason why not."""
        return [name for name in ids if name not in self._row and name not in self.skipped]

    def require_encoder(self, path: Any, expected: dict[str, Any], remedy: str) -> None:
        """Raise a UserError if the encoder of these features, read from `path`, is not this one."""
        for key, value in expected.items():
            actual = self.encoder.get(key)
            if type(actual) is not type(value) or actual != value:
                raise UserError(
                    f"{path} holds features of another encoder ({key}: {actual!r}, expected "
                    f"{value!r}). {remedy}, or the encoder that it belongs to."
                )

    def select(self, ids: Sequence[str]) -> np.ndarray:
        """Return the features of these images in this order, float16 or float32 (len(ids), d)."""
        return self.matrix[self.places(ids)]

    def select_rows(self, ids: Sequence[str]) -> LazyRows:
        """Return what `select` returns, without reading it, if the matrix is `LazyRows`."""
        return self.matrix.take(self.places(ids))

    def select_grid(self, ids: Sequence[str]) -> LazyRows:
        """Return the grids of these images in this order, without reading them."""
        if self.grid is None:
            raise UserError(
                "These features have no grids, which ATTENTION needs. Add an array `grid` to "
                "FEATURES_FILE, set GRID_FILE, or leave both empty."
            )
        return self.grid.take(self.places(ids))

    def places(self, ids: Sequence[str]) -> np.ndarray:
        """Return the rows of these images, int64 (len(ids),)."""
        if missing := [name for name in ids if name not in self._row]:
            raise UserError(f"{len(missing)} images have no features, {missing[0]} among them.")
        return np.array([self._row[name] for name in ids], np.int64)


@dataclass(frozen=True)
class LazyRows:
    """An array of one row per image, of which indexing reads only the rows asked for."""

    values: Any  # float16 or int8 (m, ...), such as grids (m, cells, channels), cells row by row
    rows: np.ndarray  # int64 (n,), the rows of `values` that belong to the images
    scale: np.ndarray | None = None  # float32 (channels,), factors for int8 values
    identity: str = ""  # by which a training that continues tells other values

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Return the rows at a slice or an array of places, float32."""
        values = np.asarray(self.values[self.rows[places]], np.float32)
        return values if self.scale is None else values * self.scale

    def take(self, places: np.ndarray) -> LazyRows:
        """Return the `LazyRows` of these places, int (k,), without reading any."""
        return replace(self, rows=self.rows[places])

    def mean(self, axis: int = 0, keepdims: bool = True) -> np.ndarray:
        """Return the average row, float32 (1, ...), block by block; only for axis 0, keepdims."""
        blocks = (self[i : i + GRID_BLOCK] for i in range(0, len(self), GRID_BLOCK))
        return sum(block.sum(axis=0, keepdims=True) for block in blocks) / len(self)

    def digest(self) -> bytes:
        """Return a digest of the rows' checksums where they have some, else of their identity."""
        checksums = getattr(self.values, "checksums", None)
        rows = self.rows if checksums is None else checksums[self.rows]
        return hashlib.sha256(self.identity.encode() + rows.tobytes()).digest()


class Stacked:
    """Arrays, float16 (n, ...) each, as if concatenated; indexing reads only the rows asked for."""

    dtype = np.dtype(np.float16)

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = [array for array in arrays if len(array)] or list(arrays[:1])
        self.ends = np.cumsum([len(array) for array in self.arrays])
        self.shape = (int(self.ends[-1]), *self.arrays[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Any) -> np.ndarray:
        places = np.arange(len(self))[places]
        rows = np.empty((*places.shape, *self.shape[1:]), self.dtype)
        indices = np.searchsorted(self.ends, places, side="right")
        for index in np.unique(indices):
            array, mask = self.arrays[index], indices == index
            start = self.ends[index] - len(array)
            rows[mask] = array[places[mask] - start]
        return rows


def concatenated(parts: Sequence[Features], encoder: dict[str, Any]) -> Features:
    """Concatenate features of one encoder without reading them; of an id in several, the last."""
    row: dict[str, int] = {}
    skipped: dict[str, str] = {}
    start = 0
    for part in parts:
        for name in part.skipped:
            row.pop(name, None)
        row |= {name: start + i for i, name in enumerate(part.ids)}
        skipped |= part.skipped
        start += len(part.ids)
    skipped = {name: reason for name, reason in skipped.items() if name not in row}
    rows = np.array(list(row.values()), np.int64)
    ids = hashlib.sha256("\n".join(row).encode()).hexdigest()
    identity = json.dumps(encoder, sort_keys=True) + ids + "".join(p.contents for p in parts)

    def lazy(kind: str, arrays: list[Any]) -> LazyRows | None:
        if any(array is None for array in arrays) or not arrays:
            return None
        return LazyRows(Stacked(arrays), rows, identity=f"{kind} {identity}")

    filled = [part for part in parts if part.ids] or parts
    matrix = lazy("features", [part.matrix for part in filled])
    grid = lazy("grid", [part.grid for part in filled])
    files = np.concatenate([part.files for part in parts])[rows] if parts else None
    return Features(list(row), matrix, encoder, skipped, grid, files)


def sampled(count: int, most: int) -> np.ndarray:
    """Return `most` of `count` rows, evenly spread, or all if there are fewer: int64 (k,)."""
    k = min(count, most)
    return np.arange(k) * count // max(k, 1)


def images_digest(features: Any, cases: Sequence[Any] | None = None) -> str:
    """Return a checksum that tells features, with grids if any, from those of other images, cases
    or encoders; without reading grids from disk."""
    digest = hashlib.sha256()
    for array in arrays_of(features):
        if isinstance(array, LazyRows):
            digest.update(array.digest())
        else:
            some = np.asarray(array[sampled(len(array), 64)], np.float32)
            sums = array.reshape(len(array), -1).sum(axis=1, dtype=np.float32)  # of each row
            digest.update(str(array.shape).encode() + some.tobytes() + sums.tobytes())
    if cases is not None:
        digest.update(pd.factorize(np.asarray(cases))[0].astype(np.int64).tobytes())
    return digest.hexdigest()


def to_float16(rows: np.ndarray) -> np.ndarray:
    """Return the values in half precision, clipped to its range."""
    limit = np.finfo(np.float16).max
    return np.clip(np.asarray(rows, np.float32), -limit, limit).astype(np.float16)


def arrays_of(features: Any) -> tuple[Any, ...]:
    """Return the decoder's image inputs as a tuple: (features,), or (features, grids)."""
    return features if isinstance(features, tuple) else (features,)
