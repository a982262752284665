"""Scales features for the decoder: unit length, then a fitted projection."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.decoder.layers import cell_dense, filled

ROWS = 16384  # rows that the scaler is fitted to
TINY = 1e-12  # shortest length to divide by, as in Keras' UnitNormalization


class FeatureScaler(layers.Layer):
    """Unit length, then a projection: ratings of words, or whitened principal components.

    Raw fc2 features are large, correlated, and some are nearly constant: divided by their tiny
    deviation, these would drown the rest. The fitted projection (`fit_rating_scaler` for an image's
    features, `fit_scaler` for the cells of its grid) gives about unit variance. An image unlike all
    in training could still get a vector many times longer than theirs, and a caption of words in no
    order: so no vector is longer than the longest in training. The weights are constant during
    training.
    """

    def __init__(self, components: int, **options: Any) -> None:
        super().__init__(**options | {"trainable": False})
        self.components = components

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.offset = self.add_weight(shape=input_shape[1:], initializer="zeros", name="offset")
        self.projection = self.add_weight(
            shape=(input_shape[-1], self.components), initializer="orthogonal", name="projection"
        )
        self.longest = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(1e9), name="longest"
        )

    def call(self, features: Any) -> Any:
        """Map float (..., d) to float32 (..., components)."""
        unit = features / ops.maximum(_lengths(features), TINY)
        return _shortened(ops.matmul(unit - self.offset, self.projection), self.longest)

    def plain(self) -> keras.Model:
        """Return the same as a model of Keras' own layers."""
        offset, projection, longest = self.get_weights()
        inputs, bias = keras.Input(offset.shape), -offset @ projection
        if bias.ndim == 2:
            dense = cell_dense("whiten", len(bias), projection, bias)
        else:
            dense = layers.Dense(len(bias), name="whiten")
            dense = filled(dense, (None, len(offset)), projection, bias)
        scaled = dense(layers.UnitNormalization(name="unit_length")(inputs))
        return keras.Model(inputs, _shortened(scaled, float(longest)), name=self.name)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"components": self.components}


def _lengths(vectors: Any) -> Any:
    # not `ops.norm`: a Keras file that contains it cannot be loaded on JAX
    return ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True))


def _shortened(vectors: Any, longest: Any) -> Any:
    """Return float (..., k), vectors longer than `longest` scaled down to it."""
    length = _lengths(vectors)
    return vectors * ops.minimum(1.0, longest / (length + 1e-6))


def fit_scaler(features: np.ndarray, components: int = 256) -> tuple[np.ndarray, ...]:
    """Fit the weights of a `FeatureScaler`.

    Args:
        features: of the training images, float (n, d); or their grids (n, cells, d): cells share
            the components, and each has a mean of its own.
        components: principal components kept; the last columns are zero where there are fewer.

    Returns:
        `offset` float32 (d,) or (cells, d), `projection` float32 (d, components), and `longest`
        float32 (), the length of the longest result.
    """
    cells = int(np.prod(features.shape[1:-1]))
    rows, offset, weight = scaled_rows(features[:: max(1, len(features) * cells // ROWS)])
    rows = rows.reshape(-1, rows.shape[-1])
    axes, values = largest_components(rows, components)
    projection = np.zeros((rows.shape[1], components), np.float32)
    axes = axes * np.sqrt(len(rows) / values)
    projection[:, : len(values)] = weight[:, None] * axes
    # slightly more, so that rounding shortens none of these
    longest = 1.01 * np.linalg.norm(rows @ axes, axis=-1).max()
    return offset, projection, np.asarray(longest, np.float32)


def scaled_rows(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features float (n, ..., d) at unit length, less their mean, of about unit variance.

    The result is float32 (n, ..., d), the mean (..., d), and the factors (d,) of the variance.
    """
    rows = features.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), TINY)
    offset = rows.mean(axis=0)
    rows -= offset
    deviation = rows.reshape(-1, rows.shape[-1]).std(axis=0)
    # a feature that hardly varies is not scaled up to the size of the others
    weight = 1 / np.maximum(deviation, 0.1 * np.median(deviation) + 1e-8)
    return rows * weight, offset, weight


def largest_components(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return up to `count` principal components of rows with mean zero, the largest first.

    They are orthonormal axes (d, k), and the sums of squares along them (k,).
    """
    few = len(rows) < rows.shape[1]  # the smaller of the two matrices has the same spectrum
    values, vectors = _largest(rows @ rows.T if few else rows.T @ rows, count)
    rank = int((values > 1e-6 * values[0]).sum())
    values, vectors = values[:rank], vectors[:, :rank]
    return rows.T @ vectors / np.sqrt(values) if few else vectors, values


def _largest(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues of a covariance matrix, descending, and their eigenvectors.

    For a large matrix by subspace iteration (Halko, Martinsson, Tropp 2011, "Finding Structure with
    Randomness"): seconds, where all 4,096 eigenvectors take a minute. The result is exact within
    the subspace, so whitened features are white either way; ratings were as good with two
    iterations as with five.
    """
    if len(matrix) <= 1024:
        values, vectors = np.linalg.eigh(matrix)
    else:
        size = len(matrix), min(count + 64, len(matrix))
        basis = np.random.default_rng(0).normal(size=size).astype(matrix.dtype)
        for _ in range(2):
            basis, _ = np.linalg.qr(matrix @ (matrix @ basis))  # QR costs more than the products
        values, vectors = np.linalg.eigh(basis.T @ (matrix @ basis))
        vectors = basis @ vectors
    return values[::-1][:count], vectors[:, ::-1][:, :count]
