"""How alike captions are by the n-grams that they share, weighed as CIDEr weighs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LONGEST = 4  # words of the longest n-grams
# multiplied by an odd number of this size, n-grams' 64-bit codes differ but by a rare accident
_MIX = np.uint64(0x9E3779B97F4A7C15)
_LAST = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class NgramVectors:
    """Captions' tf-idf vectors of n-grams, n = 1 … 4, in sparse rows; each n's part has norm 1.

    Attributes:
        starts: where each caption's entries begin, and where the last one's end, int64 (m + 1,).
        codes: of n-grams, uint64 (entries,).
        weights: float32 (entries,).
    """

    starts: np.ndarray
    codes: np.ndarray
    weights: np.ndarray

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return of all entries of these captions: which of `rows`, code and weight."""
        spans = [np.arange(self.starts[row], self.starts[row + 1]) for row in rows]
        owner = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
        found = np.concatenate([*spans, np.empty(0, np.int64)])
        return owner, self.codes[found], self.weights[found]


class Ngrams:
    """How rare n-grams are among given captions.

    Args:
        words: of all captions, one after the other, as numbers of at least 0, int (w,).
        owner: the caption that each word is of, int (w,), rising.
        captions: how many there are.
    """

    def __init__(self, words: np.ndarray, owner: np.ndarray, captions: int) -> None:
        self.captions = captions
        self._known = []
        for rows, codes in _ngrams(words, owner):
            known, held = np.unique(_counted(rows, codes)[1], return_counts=True)
            # and one that ends the search for any other
            self._known.append((np.append(known, _LAST), np.append(held, 1)))

    def vectors(self, words: np.ndarray, owner: np.ndarray, captions: int) -> NgramVectors:
        """Return the vectors of captions, these or others, given as those of the class are."""
        parts = []
        for (rows, codes), (known, held) in zip(_ngrams(words, owner), self._known, strict=True):
            rows, codes, count = _counted(rows, codes)
            at = np.searchsorted(known, codes)
            # one that no caption has is as rare as one that a single caption has
            captions_with = np.where(known[at] == codes, held[at], 1)
            weights = count * np.log(self.captions / captions_with)
            norm = np.sqrt(np.bincount(rows, weights**2, minlength=captions))
            weights = (weights / np.maximum(norm[rows], 1e-12)).astype(np.float32)
            parts.append((rows, codes, weights))
        rows, codes, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(rows, kind="stable")
        starts = np.searchsorted(rows[order], np.arange(captions + 1))
        return NgramVectors(starts, codes[order], weights[order])


def similarities(
    a: NgramVectors, rows: np.ndarray, b: NgramVectors, others: np.ndarray
) -> np.ndarray:
    """Return float32 (len(rows), len(others)), how alike captions are: mean over n of cosines."""
    (row, codes, weights), (other, other_codes, other_weights) = a.entries(rows), b.entries(others)
    every, column = np.unique(np.concatenate([codes, other_codes]), return_inverse=True)
    left = np.zeros((len(rows), len(every)), np.float32)
    right = np.zeros((len(others), len(every)), np.float32)
    left[row, column[: len(codes)]] = weights
    right[other, column[len(codes) :]] = other_weights
    return left @ right.T / LONGEST


def _ngrams(words: np.ndarray, owner: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for n = 1 … 4 the caption and the code of every n-gram within a caption."""
    words = words.astype(np.uint64) + np.uint64(1)
    found, codes = [], np.zeros(len(words) + 1, np.uint64)
    for n in range(1, LONGEST + 1):
        codes = codes[: max(len(words) - n + 1, 0)] * _MIX + words[n - 1 :] + np.uint64(n << 40)
        rows = owner[: len(codes)]
        inside = rows == owner[n - 1 :]
        found.append((rows[inside], codes[inside]))
    return found


def _counted(rows: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every distinct pair of caption and code once, and how often it occurs."""
    order = np.lexsort((codes, rows))
    rows, codes = rows[order], codes[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (codes[1:] != codes[:-1])
    first = np.flatnonzero(new)
    return rows[first], codes[first], np.diff(np.append(first, len(rows)))
