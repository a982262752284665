"""Concepts: how much an image's features speak for each word, by ridge regression."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.decoder.layers import filled
from roco_caption.decoder.scaler import largest_components
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

SAMPLE = 8192  # images that a fit looks at
CANDIDATES = 2048  # the most frequent words are tried
PENALTIES = np.logspace(-5, 3, 25)  # of the largest component's variance
WORTH = 0.01  # of a word's variance: what must be explained for it to be kept
FLOOR = 0.3  # of a cell's mean variance: added to every direction's before it is divided by it


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
        self.words = self.add_weight(
            shape=(self.count,), dtype="int32", initializer="zeros", name="words"
        )

    def call(self, described: Any) -> Any:
        """Map float (n, d) to float (n, count)."""
        return ops.matmul(described - self.offset, self.projection)

    def plain(self) -> layers.Layer:
        """Return the same as one of Keras' own layers."""
        offset, projection, _ = self.get_weights()
        layer = layers.Dense(self.count, name=self.name)
        return filled(layer, (None, len(offset)), projection, -offset @ projection)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"count": self.count}


def fit_concepts(
    described: np.ndarray,
    tokens: np.ndarray,
    count: int,
    cases: np.ndarray | None = None,
    components: int = 2048,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the weights of a `Concepts` layer.

    Each word's penalty is the one with the least error on images left out, which ridge regression
    has in closed form. Images of one case are left out together: they would give each other's
    words away. Where no cases are known, those with the same caption are.

    Args:
        described: what describes the training images, float32 (n, d); or their grids
            (n, cells, channels), of which each cell is whitened by itself: what differs much
            between images there, such as where the body ends, would hide what differs little.
        tokens: their captions, int32 (n, t).
        count: words rated; columns are zero where fewer can be told from the features.
        cases: which images belong together, (n,) of anything that can be compared.
        components: principal components of `described` that the regressions see.

    Returns:
        `offset` float32 (d,), `projection` float32 (d, count), which rates words in standard
        deviations of their being there, and `words` int32 (count,), those that it rates. Of
        grids d is cells times channels.
    """
    n = len(described)
    offset = described.reshape(n, -1).mean(axis=0)
    centred = described.reshape(n, -1) - offset
    projection = np.zeros((len(offset), count), np.float32)
    words = np.zeros(count, np.int32)
    groups = _together(tokens, cases)
    whitening = _fit_cells(centred.reshape(described.shape)) if described.ndim == 3 else None
    if whitening is not None:
        centred = _by_cells(centred, whitening)
    axes, values = largest_components(centred, components)
    if not len(values) or any(len(group) == n for group in groups):
        return offset, projection, words  # all images, captions or cases are the same
    variance = values / n
    axes = axes / np.sqrt(variance)
    white = centred @ axes
    said, there = _there(tokens)
    share = there.mean(axis=0)
    deviation = np.sqrt(share * (1 - share) + 1e-9)
    wanted = (there - share) / deviation
    slopes = white.T @ wanted / n
    errors = np.stack([
        _error_left_out(white, wanted, slopes, variance / (variance + penalty), groups)
        for penalty in PENALTIES * variance[0]
    ])  # fmt: skip
    best = PENALTIES[errors.argmin(axis=0)] * variance[0]
    explained = np.where((share > 0) & (share < 1), 1 - errors.min(axis=0), 0)
    kept = np.argsort(-explained, kind="stable")[:count]
    kept = kept[explained[kept] > WORTH]
    shrunk = axes @ (variance[:, None] / (variance[:, None] + best[kept]) * slopes[:, kept])
    if whitening is not None:
        shrunk = _by_cells(shrunk.T, whitening).T  # a whitening is symmetric
    projection[:, : len(kept)] = shrunk
    words[: len(kept)] = said[kept]
    return offset, projection, words


def _fit_cells(centred: np.ndarray) -> np.ndarray:
    """Return what whitens each cell of grids (n, cells, k), symmetric: float32 (cells, k, k)."""
    cells = np.swapaxes(centred, 0, 1)
    values, axes = np.linalg.eigh(np.swapaxes(cells, 1, 2) @ cells / len(centred))
    values = np.maximum(values, 0)
    values += FLOOR * values.mean(axis=1, keepdims=True) + 1e-12
    return (axes / np.sqrt(values)[:, None]) @ np.swapaxes(axes, 1, 2)


def _by_cells(rows: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Multiply each cell of rows float (n, cells * k) by its own matrix."""
    cells = rows.reshape(len(rows), *whitening.shape[:2])
    product = np.swapaxes(np.swapaxes(cells, 0, 1) @ whitening, 0, 1)
    return product.reshape(rows.shape)


def _there(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent words, int (words,), and which captions hold them, (n, words)."""
    there = np.zeros((len(tokens), tokens.max() + 1), np.float32)
    there[np.arange(len(tokens))[:, None], tokens] = 1
    there[:, [special for special in (PAD, START, END, UNKNOWN) if special < there.shape[1]]] = 0
    said = np.argsort(-there.sum(axis=0), kind="stable")[:CANDIDATES]
    return said, there[:, said]


def _together(tokens: np.ndarray, cases: np.ndarray | None) -> list[np.ndarray]:
    """Return the rows of each case of several images, or of each caption where no case has more."""
    numbers = np.unique(np.arange(len(tokens)) if cases is None else cases, return_inverse=True)[1]
    return _alike(numbers[:, None]) or _alike(tokens)


def _alike(rows: np.ndarray) -> list[np.ndarray]:
    """Return the places of each row that comes more than once."""
    _, which, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
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
