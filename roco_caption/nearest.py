"""The rows of a matrix nearest to others by cosine similarity, a part of it at a time."""

from __future__ import annotations

import numpy as np


def neighbours(
    train_features: np.ndarray, features: np.ndarray, k: int, *, chunk: int = 4096
) -> np.ndarray:
    """Return the k training images nearest to each image by cosine similarity, nearest first.

    Args:
        train_features: float (t, d), of any precision.
        features: float (n, d).
        k: how many; no more than t are returned.
        chunk: training images compared at once: (n, chunk) similarities are held at a time.

    Returns:
        int64 (n, min(k, t)): row numbers in `train_features`.
    """
    k = min(k, len(train_features))
    queries = _unit(features)
    best = np.empty((len(queries), 0), np.float32)
    index = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(train_features), chunk):
        part = _unit(train_features[start : start + chunk])
        best = np.hstack([best, queries @ part.T])
        here = np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))
        index = np.hstack([index, here])
        top = _largest(best, k)
        best, index = np.take_along_axis(best, top, 1), np.take_along_axis(index, top, 1)
    return index


def _unit(features: np.ndarray) -> np.ndarray:
    """Return rows of length 1 in float32; a row of zeros stays one."""
    rows = np.asarray(features, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k largest values, largest first, the first of equals."""
    if k == 1:
        return values.argmax(axis=1)[:, None]
    kept = np.arange(values.shape[1])[None].repeat(len(values), 0)
    if k < values.shape[1]:
        kept = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(values, kept, 1), axis=1, kind="stable")
    return np.take_along_axis(kept, order, 1)
