"""Batches of captions of like length; which ones is a pure function of seed and epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from roco_caption.text import PAD

Batch = tuple[tuple[np.ndarray, ...], np.ndarray]


def plan(lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Divide the captions into batches of nearly equal length, differently in every epoch.

    Captions are shuffled, sorted by length within stretches of 32 batches, cut into batches, and
    the batches shuffled: little padding, and hardly two epochs with the same batch.

    Args:
        lengths: tokens of each caption, int (n,).
        batch_size: captions a batch; the last one may be smaller.
        seed: the run's seed.
        epoch: counted from 0.

    Returns:
        One int64 array of positions a batch; together each position once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    stretch = 32 * batch_size
    batches = []
    for start in range(0, len(order), stretch):
        part = order[start : start + stretch]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def arrays_of(features: Any) -> tuple[Any, ...]:
    """Return what describes the images: their features, and with attention their grids.

    Args:
        features: float (n, d); or a pair of them and a `Grid` or array (n, cells, channels).
    """
    return features if isinstance(features, tuple) else (features,)


def mean_image(features: Any) -> tuple[np.ndarray, ...]:
    """Return the average image's features, each kind (1, ...), of what `arrays_of` takes."""
    return tuple(array.mean(axis=0, keepdims=True) for array in arrays_of(features))


def take(features: Any, tokens: np.ndarray, rows: np.ndarray, multiple: int = 1) -> Batch:
    """Return one batch, cut to its longest caption.

    Args:
        features: image features, float (n, ...), or a tuple of several kinds.
        tokens: encoded captions, int32 (n, length): start, words, end, padding 0.
        rows: which captions, int (b,).
        multiple: the number of columns is rounded up to it: more for few different shapes, one
            for little padding.

    Returns:
        `((features float32 (b, ...), tokens_in int32 (b, t)), tokens_out int32 (b, t))`, the
        features being as many arrays as were given; `tokens_out[:, i]` is the word that follows
        `tokens_in[:, : i + 1]`.
    """
    tokens = tokens[rows]
    longest = int((tokens != PAD).sum(axis=1).max()) - 1
    columns = min(-(-longest // multiple) * multiple, tokens.shape[1] - 1)
    inputs, outputs = tokens[:, :columns], tokens[:, 1 : columns + 1]
    images = (array[rows].astype(np.float32, copy=False) for array in arrays_of(features))
    return (*images, inputs), outputs
