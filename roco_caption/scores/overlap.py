"""What captions share with their references: counts of BLEU; ROUGE and CIDEr of each image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

import numpy as np
import pandas as pd
import regex as re

from roco_caption.core.errors import UserError
from roco_caption.text.ngrams import MAX_N, distinct_ngrams

GUESS, CORRECT = ([f"{kind}_{n}" for n in range(1, MAX_N + 1)] for kind in ("guess", "correct"))
_BETA, _SIGMA = 1.2, 6.0  # pycocoevalcap's, of ROUGE-L and CIDEr-D
_OTHER_LETTER = re.compile(r"(?!\p{Latin}|\p{Greek})\p{L}")


class CountedReferences:
    """The references of n images, counted once for all captions that are compared with them."""

    def __init__(self, lists: tuple[tuple[str, ...], ...]) -> None:
        self._texts = [text for parts in lists for text in parts]
        if not any(self._texts):
            raise UserError("There is not a word in the references to score against.")
        self._sizes = np.array(list(map(len, lists)))
        self._numbers: dict[str, int] = defaultdict(count().__next__)  # of words
        self._ends = self._sizes.cumsum()
        parts, codes, counts, self._lengths = self._ngrams(self._texts)
        self._known, index = np.unique(codes, return_inverse=True)
        image = np.repeat(np.arange(len(lists)), self._sizes)[parts // MAX_N]
        images = np.unique(image * len(self._known) + index) % len(self._known)
        # the last of each is that of unknown n-grams, which count as occurring with one image
        self._known = np.append(self._known, ~np.uint64(0))
        self._idf = np.log(len(lists)) - np.log(np.append(np.bincount(images), 1))
        self._keys = np.append(parts * len(self._known) + index, np.iinfo(np.int64).max)
        self._counts = np.append(counts, 0)
        self._weights = np.append(counts * self._idf[index], 0.0)
        self._norms = _sums(parts, self._weights[:-1] ** 2, len(self._texts)) ** 0.5

    def compare(self, hypotheses: Sequence[str]) -> pd.DataFrame:
        """Compare tokenized captions with the references, one row per image; "" scores 0.

        "testlen", "reflen": words. `GUESS`, `CORRECT`: n-grams, all and those in a reference.
        ROUGE-1: rouge-score's F-measure without stemming (Lin, 2004, W04-1013), of several
        references the largest. ROUGE-L: pycocoevalcap's, the largest precision and recall. CIDEr:
        its CIDEr-D, 0 to 10, idf from all references (Vedantam et al., 2015, arXiv:1411.5726), the
        mean.
        """
        n, (parts, codes, counts, lengths) = len(hypotheses), self._ngrams(hypotheses)
        index = np.searchsorted(self._known, codes)
        index[self._known[index] != codes] = len(self._known) - 1
        weights = counts * self._idf[index]
        norms, held, cider = _sums(parts, weights**2, n) ** 0.5, np.zeros_like(counts), np.zeros(n)
        for k in range(self._sizes.max()):  # each image's next reference, or its last again
            row = self._ends - np.maximum(self._sizes - k, 1)
            keys = (parts + MAX_N * (row - np.arange(n))[parts // MAX_N]) * len(self._known) + index
            place = np.searchsorted(self._keys, keys)
            place[self._keys[place] != keys] = -1
            held, theirs = np.maximum(held, self._counts[place]), self._weights[place]
            cosines = _sums(parts, np.minimum(weights, theirs) * theirs, n)
            cosines = cosines / np.where(cosines > 0, norms * self._norms[row], 1)
            bigrams = np.maximum(lengths, 1) - np.maximum(self._lengths[row], 1)
            mean = cosines.mean(axis=1) * np.exp(-(bigrams**2) / (2 * _SIGMA**2))
            cider += np.where(k < self._sizes, 10 / self._sizes * mean, 0)
        rows = [self._words_shared(i, text) for i, text in enumerate(hypotheses)]
        table = pd.DataFrame(rows, columns=["reflen", "ROUGE-1", "ROUGE-L"], dtype=float)
        table[GUESS] = np.maximum(lengths[:, None] - np.arange(MAX_N), 0)
        table[CORRECT] = _sums(parts, np.minimum(counts, held), n)
        return table.assign(testlen=lengths, CIDEr=cider)

    def _words_shared(self, image: int, text: str) -> tuple[float, float, float]:
        """Return the length of the closest reference (of two, the shorter), ROUGE-1 and ROUGE-L."""
        words = text.split()
        references = self._texts[self._ends[image] - self._sizes[image] : self._ends[image]]
        lengths = [_places(reference)[0] for reference in references]
        common = [_common(words, *_places(reference)) for reference in references]
        precision = max(common) / max(len(words), 1)
        recall = max(shared / max(n, 1) for shared, n in zip(common, lengths, strict=True))
        rouge_l = (1 + _BETA**2) * precision * recall / max(recall + _BETA**2 * precision, 1e-9)
        closest = min(lengths, key=lambda n: (abs(n - len(words)), n))
        return closest, max(_rouge_1(text, reference) for reference in references), rouge_l

    def _ngrams(self, texts: Sequence[str]) -> tuple[np.ndarray, ...]:
        """Return `distinct_ngrams` of captions, and the captions' lengths in words."""
        words = [text.split() for text in texts]
        lengths = np.array(list(map(len, words)))
        numbers = np.array([self._numbers[word] for each in words for word in each], np.int64)
        return *distinct_ngrams(numbers, np.repeat(np.arange(len(texts)), lengths)), lengths


@lru_cache(maxsize=1)
def counted(references: tuple[tuple[str, ...], ...]) -> CountedReferences:
    """Return the `CountedReferences`, which the tables of one test split share."""
    return CountedReferences(references)


def _sums(parts: np.ndarray, values: np.ndarray, captions: int) -> np.ndarray:
    """Return sums of the values of n-grams for each caption and n, float64 (captions, MAX_N)."""
    return np.bincount(parts, values, MAX_N * captions).reshape(-1, MAX_N)


def _rouge_1(text: str, reference: str) -> float:
    ours, theirs = _rouge_words(text), _rouge_words(reference)
    both = sum(min(ours[word], theirs[word]) for word in ours.keys() & theirs.keys())
    return 2 * both / max(ours.total() + theirs.total(), 1)


def _common(words: list[str], length: int, places: dict[str, int]) -> int:
    """Return how long the longest common subsequence with a caption of these `_places` is."""
    everywhere = rest = (1 << length) - 1
    for word in words:
        matches = rest & places.get(word, 0)
        rest = (rest + matches) | (rest - matches)
    return length - (rest & everywhere).bit_count()  # the zeros that remain (Hyyrö)


@lru_cache(1 << 16)
def _rouge_words(text: str) -> Counter[str]:
    """Count words as rouge-score has them for Latin letters; it drops others, words here."""
    other = not text.isascii() and _OTHER_LETTER.search(text)
    return Counter(re.findall(r"[^\W_]+" if other else r"[a-z0-9]+", text.lower()))


@lru_cache(1 << 15)
def _places(text: str) -> tuple[int, dict[str, int]]:
    """Return a caption's length in words, and for each word a number whose bits are its places."""
    words, places = text.split(), Counter[str]()
    for i, word in enumerate(words):
        places[word] += 1 << i
    return len(words), places
