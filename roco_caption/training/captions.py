"""What is learnt from: images and their captions, and captions without images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from roco_caption.core.errors import UserError
from roco_caption.decoder.model import IMAGE_BLOCK, Decoder
from roco_caption.decoder.ratings import Ratings
from roco_caption.features.table import LazyRows, arrays_of, to_float16

TEXT_PASSES = 8  # over the captions without images, in all, at most one per epoch,
TEXT_EPOCHS = 0.8  # spread over this share of the epochs: the last ones are for images alone


def text_passes(epochs: int) -> int:
    """Return how often so many epochs learn from each caption without images."""
    return min(TEXT_PASSES, _epochs_with_texts(epochs))


def _epochs_with_texts(epochs: int) -> int:
    return max(1, min(round(TEXT_EPOCHS * epochs), epochs - 1))


@dataclass(frozen=True)
class CaptionData:
    """Images and their captions as the decoder takes them.

    Attributes:
        features: float (n, d), an array or `LazyRows`; with attention a pair of it and the grids.
        tokens: int32 (n, length), of `CaptionTokenizer.encode`.
        ratings: of `fit_scalers`, if these are the images that it was fitted to.
        texts: captions without images, int32 (m, length), to learn the language from; they need
            `ratings`.
    """

    features: Any
    tokens: np.ndarray
    ratings: Ratings | None = None
    texts: np.ndarray | None = None

    def digest(self) -> str:
        """Return a SHA-256 of features, cases, tokens and texts, in hexadecimal."""
        digest = hashlib.sha256(self.ratings.source.encode() if self.ratings else b"")
        for array in (*arrays_of(self.features), self.tokens, self.texts):
            if isinstance(array, LazyRows):
                digest.update(array.digest())
            elif array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def rated(self, decoder: Decoder) -> CaptionData:
        """Return the data with ratings, float16 (n, k), in place of features, for `every_hidden`.

        Those of the images that the regressions were fitted to are honest, see `Ratings`. On other
        backends than TensorFlow the features stay, and texts are a UserError.
        """
        if keras.backend.backend() != "tensorflow":
            if self.texts is not None:
                raise UserError("TEXT_FILE needs TensorFlow; leave it empty.")
            return self
        arrays, n = arrays_of(self.features), len(self.tokens)
        rated = np.empty((n, decoder.rated_size), np.float16)
        for start in range(0, n, IMAGE_BLOCK):
            part = slice(start, start + IMAGE_BLOCK)
            block = tuple(np.asarray(array[part], np.float32) for array in arrays)
            rated[part] = to_float16(np.asarray(decoder.rate(block)))
        if self.ratings is not None:
            rated[self.ratings.rows] = to_float16(self.ratings.left_out)
        return replace(self, features=(rated, *arrays[1:]))

    def text_count(self, epoch: int, epochs: int) -> int:
        """Return how many captions without images an epoch, counted from 0, has."""
        start, end = self._text_places(epoch, epochs)
        return end - start

    def _text_places(self, epoch: int, epochs: int) -> tuple[int, int]:
        last = _epochs_with_texts(epochs)
        count = 0 if self.texts is None or self.ratings is None else len(self.texts)
        total = text_passes(epochs) * count
        first, end = (min(k, last) * total // last for k in (epoch, epoch + 1))
        return first, end

    def of_epoch(self, epoch: int, epochs: int, seed: int) -> CaptionData:
        """Return what an epoch learns from: `rated` data, and its share of texts with simulated
        ratings and without grids. A pure function of its arguments."""
        start, end = self._text_places(epoch, epochs)
        if self.texts is None or self.ratings is None or start == end:
            return self
        m = len(self.texts)
        passes = range(start // m, (end - 1) // m + 1)
        order = {k: np.random.default_rng([seed, k]).permutation(m) for k in passes}
        texts = self.texts[[order[place // m][place % m] for place in range(start, end)]]
        rng = np.random.default_rng([seed, epoch, m])
        simulated = to_float16(self.ratings.simulated(texts, rng))
        rated, *grids = arrays_of(self.features)
        features = np.concatenate([rated, simulated]), *(_Extended(g, len(texts)) for g in grids)
        return CaptionData(features, np.concatenate([self.tokens, texts]))


@dataclass(frozen=True)
class _Extended:
    """Grids (n, cells, channels), and after them `count` that are empty."""

    grids: Any
    count: int

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        known = rows < len(self.grids)
        block = np.zeros((len(rows), *self.grids.shape[1:]), np.float32)
        if known.any():
            block[known] = self.grids[rows[known]]
        return block
