"""Concepts: rates words from an image's features by ridge regression, before decoding starts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers, ops

from roco_caption.decoder.layers import filled
from roco_caption.decoder.scaler import largest_components
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

SAMPLE = 8192  # images that the regressions are fitted to
CANDIDATES = 2048  # the most frequent words are tried
PENALTIES = np.logspace(-5, 3, 25)  # relative to the largest component's variance
MIN_R2 = 0.01  # cross-validated R² from which on a word is selected
FLOOR = 0.3  # share of a cell's mean variance that is added to all directions before whitening


@keras.saving.register_keras_serializable("roco_caption")
class Concepts(layers.Layer):
    """Rates words by an image: what its caption may be about, before any word is decoded.

    A decoder learns better from such words than from an encoder's features (Wu et al. 2016, "What
    Value Do Explicit High Level Concepts Have in Vision to Language Problems?"). Each of `count`
    words has a ridge regression, fitted by `fit_concepts` and constant during training.
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

    Each word's penalty minimises its error on images left out, which ridge regression has in closed
    form. Images of one case are left out together, as they would reveal each other's words; without
    cases, images with the same caption.

    Args:
        described: what describes the training images, float32 (n, d); or their grids
            (n, cells, channels). Each cell of a grid is whitened by itself: otherwise what varies
            much there, such as where the body ends, would hide what varies little.
        tokens: their captions, int32 (n, t).
        count: words rated; columns are zero where fewer can be predicted.
        cases: labels of the images' cases, (n,).
        components: principal components of `described` that the regressions use.

    Returns:
        `offset` float32 (d,), for grids with d = cells * channels; `projection` float32 (d, count),
        which rates words in standard deviations of their presence; and those `words`, int32.
    """
    n = len(described)
    offset = described.reshape(n, -1).mean(axis=0)
    centred = described.reshape(n, -1) - offset
    projection = np.zeros((len(offset), count), np.float32)
    words = np.zeros(count, np.int32)
    groups = _groups(tokens, cases)
    whitening = _fit_cells(centred.reshape(described.shape)) if described.ndim == 3 else None
    if whitening is not None:
        centred = _by_cells(centred, whitening)
    axes, values = largest_components(centred, components)
    if not len(values) or any(len(group) == n for group in groups):
        return offset, projection, words  # all images, captions or cases are the same
    variance = values / n
    axes = axes / np.sqrt(variance)
    word_ids, presence = _word_presence(tokens)
    weights, r2 = _regress(centred @ axes, presence, variance, groups)
    selected = np.argsort(-r2, kind="stable")[:count]
    selected = selected[r2[selected] > MIN_R2]
    columns = axes @ weights[:, selected]
    if whitening is not None:
        columns = _by_cells(columns.T, whitening).T  # a whitening is symmetric
    projection[:, : len(selected)] = columns
    words[: len(selected)] = word_ids[selected]
    return offset, projection, words


def _regress(
    white: np.ndarray, presence: np.ndarray, variance: np.ndarray, groups: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Regress each word's presence (n, words) on whitened components (n, r), by the best penalty.

    `variance` is each component's before whitening, `groups` are rows to leave out together.
    Returns the weights, (r, words), and R² on images left out, (words,).
    """
    share = presence.mean(axis=0)
    target = (presence - share) / np.sqrt(share * (1 - share) + 1e-9)
    slopes = white.T @ target / len(white)
    penalties = PENALTIES * variance[0]
    errors = np.stack([
        _error_left_out(white, target, slopes, variance / (variance + penalty), groups)
        for penalty in penalties
    ])  # fmt: skip
    penalty = penalties[errors.argmin(axis=0)]
    weights = variance[:, None] / (variance[:, None] + penalty) * slopes
    return weights, np.where((share > 0) & (share < 1), 1 - errors.min(axis=0), 0)


def _fit_cells(centred: np.ndarray) -> np.ndarray:
    """Return each cell's whitening of grids (n, cells, k), symmetric: float32 (cells, k, k)."""
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


def _word_presence(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent words, int (words,), and which captions have them, (n, words)."""
    presence = np.zeros((len(tokens), tokens.max() + 1), np.float32)
    presence[np.arange(len(tokens))[:, None], tokens] = 1
    presence[:, [token for token in (PAD, START, END, UNKNOWN) if token < presence.shape[1]]] = 0
    word_ids = np.argsort(-presence.sum(axis=0), kind="stable")[:CANDIDATES]
    return word_ids, presence[:, word_ids]


def _groups(tokens: np.ndarray, cases: np.ndarray | None) -> list[np.ndarray]:
    """Return the rows of each case of several images; without any, of each repeated caption."""
    groups = [] if cases is None else _repeated(pd.factorize(np.asarray(cases))[0][:, None])
    return groups or _repeated(tokens)


def _repeated(rows: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each row that occurs more than once."""
    _, which, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(which.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return [group for group in groups if len(group) > 1]


def _error_left_out(
    white: np.ndarray, target: np.ndarray, slopes: np.ndarray, shrinkage: np.ndarray, groups: list
) -> np.ndarray:
    """Return each word's mean squared error on images left out: `groups` together, others alone.

    `slopes` are those without penalty, float (r, words), and `shrinkage` (r,) is the share of each
    component's slope that the penalty leaves.
    """
    n = len(white)
    residual = target - white @ (shrinkage[:, None] * slopes)
    weighted = white * (shrinkage / n)
    left_out = residual / (1 - 1 / n - (weighted * white).sum(axis=1))[:, None]
    for rows in groups:
        leverage = np.eye(len(rows)) - 1 / n - weighted[rows] @ white[rows].T
        left_out[rows] = np.linalg.solve(leverage, residual[rows])
    return (left_out**2).mean(axis=0)
