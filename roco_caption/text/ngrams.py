"""Similarity of captions by the n-grams that they share, weighted by tf-idf as in CIDEr."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_N = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd multiplier of a hash: equal codes are a rare accident


class NgramVectors(NamedTuple):
    """Captions' tf-idf vectors of n-grams, n = 1 … 4, in sparse rows; each n's part has norm 1."""

    starts: np.ndarray  # where each caption's entries begin, and the last one's end, int64 (m + 1,)
    codes: np.ndarray  # hashes of n-grams, uint64 (entries,)
    weights: np.ndarray  # float32 (entries,)

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all entries of these captions: position in `rows`, code and weight."""
        spans = [np.arange(*self.starts[row : row + 2]) for row in rows]
        owner = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
        index = np.concatenate([*spans, np.empty(0, np.int64)])
        return owner, self.codes[index], self.weights[index]


class Ngrams:
    """Document frequencies of the n-grams of some captions.

    `words` are all their words, as numbers of at least 0, int (w,); `owner` is the index of the
    caption that each belongs to, int (w,), ascending; `captions` is their number.
    """

    def __init__(self, words: np.ndarray, owner: np.ndarray, captions: int) -> None:
        self.captions = captions
        known, counts = np.unique(distinct_ngrams(words, owner)[1], return_counts=True)
        # with a sentinel, so that `searchsorted` always finds an entry
        self._known, self._frequencies = np.append(known, ~np.uint64(0)), np.append(counts, 1)

    def vectors(self, words: np.ndarray, owner: np.ndarray, captions: int) -> NgramVectors:
        """Return the vectors of these or other captions; arguments as for the class."""
        parts, codes, counts = distinct_ngrams(words, owner)
        index = np.searchsorted(self._known, codes)
        # unknown n-grams count as occurring in one caption
        frequency = np.where(self._known[index] == codes, self._frequencies[index], 1)
        weights = counts * np.log(self.captions / frequency)
        norm = np.sqrt(np.bincount(parts, weights**2))
        weights = (weights / np.maximum(norm[parts], 1e-12)).astype(np.float32)
        starts = np.searchsorted(parts, MAX_N * np.arange(captions + 1))
        return NgramVectors(starts, codes, weights)


def similarities(
    a: NgramVectors, rows: np.ndarray, b: NgramVectors, others: np.ndarray
) -> np.ndarray:
    """Return captions' similarity, the mean over n of cosines, float32 (len(rows), len(others))."""
    (row, codes, weights), (other, other_codes, other_weights) = a.entries(rows), b.entries(others)
    distinct, column = np.unique(np.concatenate([codes, other_codes]), return_inverse=True)
    left = np.zeros((len(rows), len(distinct)), np.float32)
    right = np.zeros((len(others), len(distinct)), np.float32)
    left[row, column[: len(codes)]] = weights
    right[other, column[len(codes) :]] = other_weights
    return left @ right.T / MAX_N


def distinct_ngrams(words: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return each caption's distinct n-grams: 4 * caption + n - 1 (ascending), code, count."""
    words = words.astype(np.uint64) + np.uint64(1)
    parts, codes, grams = [], [], np.zeros(len(words) + 1, np.uint64)
    for n in range(1, MAX_N + 1):
        grams = grams[: max(len(words) - n + 1, 0)] * _MIX + words[n - 1 :] + np.uint64(n << 40)
        first, last = owner[: len(grams)], owner[n - 1 :]
        parts.append(MAX_N * first[first == last] + n - 1)
        codes.append(grams[first == last])
    distinct, index = np.unique(np.concatenate(codes), return_inverse=True)
    pairs, counts = np.unique(np.concatenate(parts) * len(distinct) + index, return_counts=True)
    return pairs // len(distinct), distinct[pairs % len(distinct)], counts
