"""Concepts: rates words and pairs of words from an image's features by ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from keras import layers, ops

from roco_caption.decoder.layers import filled
from roco_caption.decoder.ratings import (
    Ratings,
    frequent_pairs,
    frequent_words,
    presence,
    standardised,
)
from roco_caption.decoder.scaler import fit_scaler, largest_components, scaled_rows
from roco_caption.features.table import sampled

SAMPLE = 8192  # images that the regressions are fitted to
COMPONENTS = 2048  # principal components that the regressions use
PENALTIES = np.logspace(-4, 3, 15)  # relative to the largest component's variance
MIN_R2 = 0.005  # R² on images left out from which on a word is selected,
MIN_PAIR_R2 = 0.1  # and a pair of words
EASE = 0.01  # added to R² before ratings are divided by its root, as it is itself an estimate
FLOOR = 0.3  # share of a cell's mean variance that is added to all directions before whitening


class Concepts(layers.Layer):
    """Rates words and pairs by an image's grid: what its caption may be about.

    A decoder learns better from such words than from an encoder's features (Wu et al. 2016, "What
    Value Do Explicit High Level Concepts Have in Vision to Language Problems?"). Each rating
    comes from a ridge regression, fitted by `fit_concepts` and constant during training.
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


def sampled_cases(n: int, cases: Sequence[Any] | None) -> np.ndarray:
    """Return which of n images the regressions are fitted to, int64 (k,): at most `SAMPLE`.

    They are whole cases, so that the ratings of all others are honest as well.
    """
    if n <= SAMPLE or cases is None:
        return sampled(n, SAMPLE)
    codes = pd.factorize(np.asarray(cases))[0]
    sizes = np.bincount(codes)
    order = np.random.default_rng(0).permutation(np.flatnonzero(sizes <= SAMPLE))
    taken = order[np.cumsum(sizes[order]) <= SAMPLE]
    rows = np.flatnonzero(np.isin(codes, taken))
    return rows if len(rows) else sampled(n, SAMPLE)


def fit_rating_scaler(
    features: np.ndarray, tokens: np.ndarray, count: int, cases: np.ndarray | None = None
) -> tuple[tuple[np.ndarray, ...], Ratings]:
    """Fit the weights of a `FeatureScaler` that rates words; the arguments are `fit_concepts`'.

    Where no word can be rated, as with few images, the weights are those of `fit_scaler`, and the
    ratings are what it makes of these images.
    """
    rows, offset, weight = scaled_rows(features)
    _, projection, ratings = fit_concepts(rows, tokens, count, cases)
    if not ratings.r2.any():
        offset, projection, longest = fit_scaler(features, count)
        known = ((rows / weight) @ projection).astype(np.float32)
        return (offset, projection, longest), replace(ratings, left_out=known)
    vectors = np.concatenate([ratings.left_out, rows @ projection])
    longest = np.asarray(1.01 * np.linalg.norm(vectors, axis=1).max(), np.float32)
    return (offset, weight[:, None] * projection, longest), ratings


def fit_concepts(
    described: np.ndarray, tokens: np.ndarray, count: int, cases: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, Ratings]:
    """Fit ridge regressions that rate words, and pairs of words that a caption has both.

    What "large" looks like depends on what is large, which a regression per word cannot tell.

    Each one's penalty minimises its error on images left out, which ridge regression has in closed
    form. Images of one case are left out together, as they would reveal each other's words; without
    cases, images with the same caption.

    Args:
        described: what describes the training images, float32 (n, d); or their grids
            (n, cells, channels). Each cell of a grid is whitened by itself: otherwise what varies
            much there, such as where the body ends, would hide what varies little.
        tokens: their captions, int32 (n, t).
        count: words and pairs rated; columns are zero where fewer can be predicted.
        cases: labels of the images' cases, (n,).

    Returns:
        `offset` float32 (d,), for grids with d = cells * channels; `projection` float32 (d, count);
        and the `Ratings` of these images.
    """
    n = len(described)
    offset = described.reshape(n, -1).mean(axis=0)
    centred = described.reshape(n, -1) - offset
    projection = np.zeros((len(offset), count), np.float32)
    ratings = Ratings(
        np.zeros((n, count), np.float32), np.zeros((count, 2), np.int32),
        np.zeros(count, np.float32), tokens, np.arange(n),
    )  # fmt: skip
    groups = _groups(tokens, cases)
    whitening = _fit_cells(centred.reshape(described.shape)) if described.ndim == 3 else None
    if whitening is not None:
        centred = _by_cells(centred, whitening)
    axes, values = largest_components(centred, COMPONENTS)
    words = frequent_words(tokens)
    if not len(values) or not len(words) or any(len(group) == n for group in groups):
        return offset, projection, ratings  # all images, captions or cases are the same
    variance, axes = values / n, axes / np.sqrt(values / n)
    white = centred @ axes

    def best(terms: np.ndarray, lowest: float, room: int) -> list[np.ndarray]:
        target = standardised(presence(tokens, terms))
        weights, left_out, r2 = _regress(white, target, variance, groups)
        chosen = np.argsort(-r2, kind="stable")[:room]
        chosen = chosen[r2[chosen] > lowest]
        return [terms[chosen], weights[:, chosen], left_out[:, chosen], r2[chosen]]

    terms, weights, left_out, r2 = best(words, MIN_R2, count)
    pairs, room = frequent_pairs(tokens, terms[:, 0]), count - len(r2)
    if len(pairs) and room:
        paired, *more = best(pairs, MIN_PAIR_R2, room)
        terms = np.concatenate([terms, paired])
        found = zip((weights, left_out, r2), more, strict=True)
        weights, left_out, r2 = (np.concatenate(both, axis=-1) for both in found)
    columns, k, spread = axes @ weights, len(r2), _spread(r2)
    if whitening is not None:
        columns = _by_cells(columns.T, whitening).T  # a whitening is symmetric
    projection[:, :k] = columns * spread
    ratings.left_out[:, :k] = left_out * spread
    ratings.terms[:k], ratings.r2[:k] = terms, r2
    return offset, projection, ratings


def _spread(r2: np.ndarray) -> np.ndarray:
    """Return the factors that give ratings about unit variance: theirs is R²."""
    return np.where(r2 > 0, 1 / np.sqrt(r2 + EASE), 0).astype(np.float32)


def _regress(
    white: np.ndarray, target: np.ndarray, variance: np.ndarray, groups: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regress words or pairs (n, words) on whitened components (n, r), each by its best penalty.

    `variance` is each component's before whitening, `groups` are rows to leave out together.
    Returns the weights, (r, words), what images left out are rated, (n, words), and R² on them.
    """
    slopes = white.T @ target / len(white)
    weights, left_out = np.zeros_like(slopes), np.zeros_like(target)
    lowest = (target**2).mean(axis=0)  # of rating nothing
    everything = lowest.copy()
    for penalty in PENALTIES * variance[0]:
        shrinkage = variance / (variance + penalty)
        errors = _errors_left_out(white, target, slopes, shrinkage, groups)
        mean = (errors**2).mean(axis=0)
        better = mean < lowest
        lowest[better] = mean[better]
        weights[:, better] = shrinkage[:, None] * slopes[:, better]
        left_out[:, better] = target[:, better] - errors[:, better]
    return weights, left_out, np.where(everything > 0, 1 - lowest / np.maximum(everything, 1e-9), 0)


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


def _errors_left_out(
    white: np.ndarray, target: np.ndarray, slopes: np.ndarray, shrinkage: np.ndarray, groups: list
) -> np.ndarray:
    """Return the errors (n, words) on images left out: `groups` together, others alone.

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
    return left_out
