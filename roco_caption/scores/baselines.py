"""Nearest neighbours, baselines built on them, and leaks between the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roco_caption.scores.metrics import labels, tokenized
from roco_caption.text.ngrams import Ngrams, similarities
from roco_caption.text.words import clean

_PROJECTED = 256  # dimensions; the nearer two rows, the smaller the error of a projection
_ROWS = 1024  # projected at once


def neighbours(
    train_features: np.ndarray, features: np.ndarray, k: int, *, chunk: int = 4096
) -> np.ndarray:
    """Return the k training images nearest to each image by cosine similarity, nearest first.

    Of features (t, d) and (n, d) the result is rows of the first, int64 (n, min(k, t)).
    """
    k = min(k, len(train_features))
    queries = _unit(features)
    best = np.empty((len(queries), 0), np.float32)
    index = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(train_features), chunk):
        part = _unit(train_features[start : start + chunk])
        rows = np.tile(np.arange(start, start + len(part)), (len(queries), 1))
        best, index = np.hstack([best, queries @ part.T]), np.hstack([index, rows])
        top = _largest(best, k)
        best, index = np.take_along_axis(best, top, 1), np.take_along_axis(index, top, 1)
    return index


def _unit(features: np.ndarray) -> np.ndarray:
    """Return rows of length 1 in float32; a row of zeros stays."""
    rows = np.asarray(features, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k largest values, largest first; ties: the first column."""
    if k == 1:
        return values.argmax(axis=1)[:, None]
    last = min(k, values.shape[1]) - 1
    columns = np.sort(np.argpartition(-values, last, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def most_frequent_caption(train_captions: Sequence[str], n: int) -> list[str]:
    """Return the most frequent training caption n times (ties: the first)."""
    return [Counter(train_captions).most_common(1)[0][0]] * n


def nearest_captions(
    train_features: np.ndarray, train_captions: Sequence[str], features: np.ndarray
) -> list[str]:
    """Return for each image the caption of its nearest training image (ties: the first)."""
    return [train_captions[i] for i in neighbours(train_features, features, 1)[:, 0]]


def consensus_captions(
    train_features: np.ndarray,
    train_captions: Sequence[str],
    features: np.ndarray,
    *,
    k: int = 5,
    m: int = 4,
) -> list[str]:
    """Return for each image the caption that its nearest images' captions agree on most.

    Devlin et al., 2015, arXiv:1505.04467. Agreement is the mean similarity (see `similarities`) to
    the m most similar of the k captions; equal ones, as images of one case share, have one vote.
    The default k is best on MedPix 2.0 (1,481 for training); the paper has 90 for COCO's 80,000.
    """
    texts = [text.split() for text in tokenized(train_captions, "coco")]
    owner = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    words = pd.factorize(np.array([word for words in texts for word in words], object))[0]
    vectors = Ngrams(words, owner, len(texts)).vectors(words, owner, len(texts))
    same = pd.Series(range(len(texts))).groupby(list(train_captions)).transform("min").to_numpy()
    chosen = []
    for rows in same[neighbours(train_features, features, k)]:
        candidates = np.array(list(dict.fromkeys(rows)))
        similarity = similarities(vectors, candidates, vectors, candidates)
        np.fill_diagonal(similarity, -np.inf)  # a caption always agrees with itself
        others = max(1, min(m, len(candidates) - 1))
        agreement = -np.sort(-similarity, axis=1)[:, :others].mean(axis=1)
        chosen.append(train_captions[candidates[agreement.argmax()]])
    return chosen


def shuffled(n: int, seed: int, groups: Sequence | None = None) -> np.ndarray:
    """Return a random permutation, int64 (n,), in which no image keeps its place (if n > 1).

    With `groups`, n labels that are equal for images of one case, each gets an image of another
    case; if more than half are of one case, as many as possible.
    """
    case, cases = pd.factorize(labels(groups, n), sort=True, use_na_sentinel=False)
    largest = int(np.bincount(case).max(initial=0))
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    order = order[np.argsort(rng.permutation(len(cases))[case[order]], kind="stable")]
    result = np.empty(n, np.int64)
    # Cases are contiguous in this order, so a step of the largest one's size leaves every case.
    result[order] = np.roll(order, -largest if largest < n else -1)
    return result


def shuffled_captions(
    captions: Sequence[str], groups: Sequence | None = None, runs: int = 5
) -> list[list[str]]:
    """Return the captions in `runs` orders of `shuffled`; of fewer than two captions, no run."""
    n = len(captions)
    if n < 2:
        print("NOTE: One test image cannot be shuffled: that row is left out.")
        return []
    largest = pd.Series(labels(groups, n)).value_counts().max()
    if 2 * largest > n:
        print(f"NOTE: {largest} of {n} test images are of one case: some of them get each other's "
              "captions when shuffled, so that row scores too high.")  # fmt: skip
    orders = (shuffled(n, seed, groups) for seed in range(runs))
    return [[captions[i] for i in order] for order in orders]


def find_leaks(
    frames: Mapping[str, pd.DataFrame], features: Mapping[str, np.ndarray], alike: float = 0.98
) -> pd.DataFrame:
    """Count images with duplicates in "train", which inflate test scores, one row per other split.

    `features` (n, d) are in the frames' order, `alike` is a cosine of them minus training's mean.
    """
    train_images = {row.tobytes() for row in features["train"]}
    train_captions = {tuple(clean(caption)) for caption in frames["train"].caption}
    directions = _directions(features)
    rows = {}
    for split, frame in frames.items():
        if split != "train":
            near = neighbours(directions["train"], directions[split], 1)[:, 0]
            cosines = (directions[split] * directions["train"][near]).sum(axis=1)
            rows[split] = {
                "images": len(frame),
                "the same image": sum(row.tobytes() in train_images for row in features[split]),
                "nearly the same image": int((cosines >= alike).sum()),
                "the same caption": sum(tuple(clean(c)) in train_captions for c in frame.caption),
            }
    return pd.DataFrame(rows).T.rename_axis("split")


def _directions(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return unit vectors, float32 (n, _PROJECTED), whose products approximate the cosines."""
    mean = features["train"].mean(axis=0, dtype=np.float32)
    projection = np.random.default_rng(0).normal(size=(len(mean), _PROJECTED)).astype(np.float32)
    directions = {}
    for split, matrix in features.items():
        parts = (matrix[i : i + _ROWS] - mean for i in range(0, len(matrix), _ROWS))
        directions[split] = _unit(np.concatenate([part @ projection for part in parts]))
    return directions
