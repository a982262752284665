"""Similarity counts shared n-grams, rare ones most."""

from collections import Counter

import numpy as np
import pytest

from roco_caption.text.ngrams import Ngrams, similarities


def flat(captions):
    """Return captions, whose words are letters, as arguments of `Ngrams`."""
    words = np.array([ord(word) for caption in captions for word in caption], np.int64)
    owner = np.repeat(np.arange(len(captions)), [len(caption) for caption in captions])
    return words, owner, len(captions)


def test_similarity_by_hand():
    # No n-gram is in every caption; "ab" and "ac" share 1 unigram of 2, weighing log(4/3)
    # beside log 4: cosine = log(4/3)² / (log(4/3)² + log(4)²), and nothing above n = 1.
    captions = flat(["ab", "ac", "ad", "e"])
    vectors, rows = Ngrams(*captions).vectors(*captions), np.array([0, 1, 3])
    similar = similarities(vectors, rows, vectors, rows)
    common, rare = np.log(4 / 3) ** 2, np.log(4) ** 2
    assert similar[0, 1] == pytest.approx(common / (common + rare) / 4, rel=1e-5)
    assert similar[0, 2] == 0
    assert similar[0, 0] == pytest.approx(2 / 4)  # it has unigrams and bigrams only


def by_dictionaries(known, a, b):
    """Return the similarity of one pair of captions."""
    total = 0.0
    for n in range(1, 5):

        def weights(caption, n=n):
            held = Counter(gram for c in known for gram in {c[i : i + n] for i in range(len(c))})
            grams = Counter(caption[i : i + n] for i in range(len(caption) - n + 1))
            return {g: k * np.log(len(known) / max(held[g], 1)) for g, k in grams.items()}

        x, y = weights(a), weights(b)
        norm = np.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
        total += sum(x[g] * y[g] for g in x.keys() & y.keys()) / norm if norm else 0.0
    return total / 4


def test_other_captions_are_weighted_by_the_known_ones():
    rng = np.random.default_rng(0)
    known = ["".join(rng.choice(list("abcdef"), rng.integers(0, 9))) for _ in range(40)]
    others = ["", "a", "xyz", "abcabc", *("".join(rng.choice(list("abcx"), 7)) for _ in range(9))]
    ngrams = Ngrams(*flat(known))
    similar = similarities(
        ngrams.vectors(*flat(others)), np.arange(len(others))[::-1],
        ngrams.vectors(*flat(known)), np.arange(len(known)),
    )  # fmt: skip
    expected = [
        [by_dictionaries(known, other, caption) for caption in known] for other in others[::-1]
    ]
    assert similar == pytest.approx(np.array(expected), abs=1e-5)
    assert similar.max() > 0.3


def test_captions_without_words_have_similarity_0():
    empty = flat(["", ""])
    vectors = Ngrams(*empty).vectors(*empty)
    assert (similarities(vectors, np.arange(2), vectors, np.arange(2)) == 0).all()
