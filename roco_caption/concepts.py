"""Concepts: how much an image's features speak for each word, by ridge regression."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.scaling import largest_components
from roco_caption.text import END, PAD, START, UNKNOWN

SAMPLE = 8192  # images that a fit looks at
CANDIDATES = 2048  # the most frequent words are tried
PENALTIES = np.logspace(-5, 3, 25)  # of the largest component's variance
WORTH = 0.01  # of a word's variance: what must be explained for it to be kept


@keras.saving.register_keras_serializable("roco_caption")
class Concepts(layers.Layer):
    """Rates words by an image: what a caption may be about, before any word is said.

    A decoder of captions learns better from such words than from an encoder's features (Wu et al.
    2016, "What Value Do Explicit High Level Concepts Have in Vision to Language Problems?"). Here
    each word has a ridge regression, fitted by `fit_concepts` and constant in training.

    Args:
        count: words rated.
    """

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(**options | {"trainable": False})
        self.count = count

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        size = input_shape[-1]
        self.offset = self.add_weight(shape=(size,), initializer="zeros", name="offset")
        self.projection = self.add_weight(
            shape=(size, self.count), initializer="glorot_uniform", name="projection"
        )

    def call(self, described: Any) -> Any:
        """Map float (n, d) to float (n, count)."""
        return ops.matmul(described - self.offset, self.projection)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"count": self.count}


def fit_concepts(
    described: np.ndarray, tokens: np.ndarray, count: int, components: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the weights of a `Concepts` layer.

    Each word's penalty is the one with the least error on images left out, which ridge regression
    has in closed form. Images with the same caption are left out together: they may be of one
    patient, and would give each other's words away.

    Args:
        described: what describes the training images, float32 (n, d).
        tokens: their captions, int32 (n, t).
        count: words rated; columns are zero where fewer can be told from the features.
        components: principal components of `described` that the regressions see.

    Returns:
        `offset` float32 (d,), and `projection` float32 (d, count), which rates words in standard
        deviations of their being there.
    """
    n = len(described)
    offset = described.mean(axis=0)
    projection = np.zeros((described.shape[1], count), np.float32)
    groups = _alike(tokens)
    centred = described - offset
    axes, values = largest_components(centred, components)
    if not len(values) or any(len(group) == n for group in groups):
        return offset, projection  # all images or all captions are the same
    variance = values / n
    axes = axes / np.sqrt(variance)
    white = centred @ axes
    there = _there(tokens)
    share = there.mean(axis=0)
    deviation = np.sqrt(share * (1 - share) + 1e-9)
    wanted = (there - share) / deviation
    slopes = white.T @ wanted / n
    errors = np.stack([
        _error_left_out(white, wanted, slopes, variance / (variance + penalty), groups)
        for penalty in PENALTIES * variance[0]
    ])  # fmt: skip
    best = PENALTIES[errors.argmin(axis=0)] * variance[0]
    explained = np.where(share > 0, 1 - errors.min(axis=0), 0)
    kept = np.argsort(-explained, kind="stable")[:count]
    kept = kept[explained[kept] > WORTH]
    shrunk = variance[:, None] / (variance[:, None] + best[kept]) * slopes[:, kept]
    projection[:, : len(kept)] = axes @ shrunk
    return offset, projection


def _there(tokens: np.ndarray) -> np.ndarray:
    """Return which captions hold which of the most frequent words, float32 (n, words)."""
    there = np.zeros((len(tokens), tokens.max() + 1), np.float32)
    there[np.arange(len(tokens))[:, None], tokens] = 1
    there[:, [special for special in (PAD, START, END, UNKNOWN) if special < there.shape[1]]] = 0
    return there[:, np.argsort(-there.sum(axis=0), kind="stable")[:CANDIDATES]]


def _alike(tokens: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each caption that comes more than once."""
    _, which, counts = np.unique(tokens, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(which.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return [group for group in groups if len(group) > 1]


def _error_left_out(
    white: np.ndarray, wanted: np.ndarray, slopes: np.ndarray, kept: np.ndarray, groups: list
) -> np.ndarray:
    """Return each word's mean squared error on images that the regression had left out.

    Args:
        white: whitened components, float (n, r).
        wanted: float (n, words), standardised.
        slopes: of the regressions without penalty, float (r, words).
        kept: the part of each component's slope that the penalty leaves, float (r,).
        groups: rows to leave out together; all others alone.
    """
    n = len(white)
    missed = wanted - white @ (kept[:, None] * slopes)
    weighted = white * (kept / n)
    left_out = missed / (1 - 1 / n - (weighted * white).sum(axis=1))[:, None]
    for rows in groups:
        own = np.eye(len(rows)) - 1 / n - weighted[rows] @ white[rows].T
        left_out[rows] = np.linalg.solve(own, missed[rows])
    return (left_out**2).mean(axis=0)
