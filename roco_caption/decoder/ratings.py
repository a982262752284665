"""Ratings: numbers of an image that say which words its caption may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

CANDIDATES = 1024  # the most frequent words, or pairs of words, are tried,
MIN_IMAGES = 8  # of those that so many captions have
PAIRED = 64  # words whose pairs are tried
RATINGS_VERSION = 2  # increase it whenever the same images and captions get other ratings
LARGEST = 8.0  # standard deviations: a rare word's presence is no more


@dataclass(frozen=True)
class Ratings:
    """Honest ratings of training images: by regressions that had not seen their cases.

    A decoder that learns from them learns how far ratings can be trusted; on images that the
    regressions were fitted to, they seem better than they are.

    Attributes:
        left_out: float32 (n, count), about one standard deviation each; zero in unused columns.
        terms: what each column rates: a word, or two that a caption has both, int32 (count, 2); the
            second is `PAD` for one word, both are in unused columns.
        r2: share of a term's variance that is explained on images left out, float32 (count,).
        tokens: the images' captions, int32 (n, t).
        rows: which of the training images these are, int64 (n,).
        source: `images_digest` of what they are ratings of, or "".
    """

    left_out: np.ndarray
    terms: np.ndarray
    r2: np.ndarray
    tokens: np.ndarray
    rows: np.ndarray
    source: str = ""

    @property
    def words(self) -> np.ndarray:
        """The word that each column rates, int32 (count,); `PAD` in unused columns and of pairs."""
        return np.where(self.terms[:, 1] == PAD, self.terms[:, 0], PAD)

    def beside(self, other: Ratings) -> Ratings:
        """Return the columns of both, of the same images."""
        left_out = np.concatenate([self.left_out, other.left_out], axis=1)
        terms = np.concatenate([self.terms, other.terms])
        r2 = np.concatenate([self.r2, other.r2])
        return Ratings(left_out, terms, r2, self.tokens, self.rows)

    def simulated(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return ratings as images with these captions, int32 (m, t), might have: float32 (m, k).

        A term's presence raises its rating by as much as in the training images, and the errors
        are those of a random one, so that they are correlated as errors are (after Nukrai, Mokady,
        Globerson 2022, "Text-Only Training for Image Captioning using Noise-Injected CLIP").
        """
        present = presence(self.tokens, self.terms)
        known, share = standardised(present), present.mean(axis=0)
        gain = (known * self.left_out).mean(axis=0)
        errors = self.left_out - gain * known
        present = np.minimum(standardised(presence(tokens, self.terms), share), LARGEST)
        return gain * present + errors[rng.integers(len(errors), size=len(tokens))]


def frequent_words(tokens: np.ndarray) -> np.ndarray:
    """Return the most frequent words of captions, int (n, t), as terms (words, 2)."""
    frequency = np.bincount(np.concatenate([np.unique(row) for row in tokens]))
    frequency[[t for t in (PAD, START, END, UNKNOWN) if t < len(frequency)]] = 0
    words = np.argsort(-frequency, kind="stable")[:CANDIDATES]
    words = words[frequency[words] >= MIN_IMAGES].astype(np.int32)
    return np.stack([words, np.full_like(words, PAD)], axis=1)


def frequent_pairs(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the pairs of the first `PAIRED` words that most captions have, as terms (pairs, 2).

    Pairs that as many captions have as one of their words say nothing new.
    """
    words = words[:PAIRED]
    present = _has(tokens, words)
    together, (i, j) = present.T @ present, np.triu_indices(len(words), 1)
    count, rarer = together[i, j], np.minimum(*together.diagonal()[np.stack([i, j])])
    best = np.argsort(-count, kind="stable")[:CANDIDATES]
    best = best[(count >= MIN_IMAGES)[best] & (count < rarer)[best]]
    return np.stack([words[i[best]], words[j[best]]], axis=1)


def presence(tokens: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return which captions, int (n, t), have which of these terms, int (k, 2): float32 (n, k).

    Padding is no word: the columns of unused terms are zero.
    """
    first, second = terms.T
    return _has(tokens, first) * np.where(second == PAD, 1, _has(tokens, second))


def _has(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return which captions have which of these words, int (k,): float32 (n, k); none has `PAD`."""
    unique, column_of = np.unique(words, return_inverse=True)
    column = np.full(max(tokens.max(initial=0), unique.max(initial=0)) + 1, len(unique))
    column[unique] = np.arange(len(unique))
    column[PAD] = len(unique)
    present = np.zeros((len(tokens), len(unique) + 1), np.float32)
    present[np.arange(len(tokens))[:, None], column[tokens]] = 1
    present[:, -1] = 0
    return present[:, np.where(words == PAD, len(unique), column_of)]


def standardised(present: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    """Scale presence to mean 0 and variance 1, for words that a `share` of captions has."""
    share = present.mean(axis=0) if share is None else share
    return (present - share) / np.sqrt(share * (1 - share) + 1e-6)
