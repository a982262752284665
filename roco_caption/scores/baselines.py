"""Nearest neighbours, baselines built on them, and leaks between the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roco_caption.core.backend import product_with
from roco_caption.core.machine import has_accelerator
from roco_caption.scores.metrics import labels, tokenized
from roco_caption.text.ngrams import Ngrams, similarities
from roco_caption.text.words import clean

_PROJECTED = 256  # dimensions; the nearer two rows, the smaller the error of a projection
_ROWS = 1024  # projected at once
_FIRST = 64  # dimensions that rule out most rows as duplicates
_BOUNDED = 128  # rows compared in these at once
_LARGE = 10**10  # multiplications from which on an accelerator is used
RUNS = 5  # of shuffled captions, whose scores are averaged
_COMPARED = 2  # images whose neighbours' captions are compared at once; BLAS shares larger products
NEAREST = 5  # training images of a consensus; best on MedPix 2.0 (1,481 for training), Devlin: 90


def neighbours(
    train_features: np.ndarray, features: np.ndarray, k: int, *, chunk: int = 4096
) -> np.ndarray:
    """Return the k training images nearest to each image by cosine similarity, nearest first.

    Of features (t, d) and (n, d) the result is rows of the first, int64 (n, min(k, t)); of equally
    near images, those are taken that come first.
    """
    queries, k = _unit(features), min(k, len(train_features))
    n = len(queries)
    on_accelerator = queries.size * len(train_features) >= _LARGE and has_accelerator()
    product = product_with(queries) if on_accelerator else lambda rows: queries @ rows.T
    best, index = np.full((n, k), -np.inf, np.float32), np.zeros((n, k), np.int64)
    for start in range(0, len(train_features), chunk):
        cosines = product(_unit(train_features[start : start + chunk]))
        floor = best[:, -1:]  # as large comes too late: the first of equals wins
        if np.isneginf(floor).any() and k < cosines.shape[1]:
            floor = np.nextafter(np.partition(cosines, -k, axis=1)[:, -k, None], -np.inf)
        row, column = divmod(np.flatnonzero(cosines > floor), cosines.shape[1])
        value = np.concatenate([best.ravel(), cosines[row, column]])
        place = np.concatenate([index.ravel(), start + column])
        row = np.concatenate([np.repeat(np.arange(n), k), row])
        order = np.lexsort((place, -value, row))
        order = order[np.searchsorted(row[order], np.arange(n))[:, None] + np.arange(k)]
        best, index = value[order], place[order]
    return index


def _unit(features: np.ndarray) -> np.ndarray:
    """Return rows of length 1 in float32; a row of zeros stays."""
    rows = np.array(features, np.float32)
    rows /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), 1e-12)[:, None]
    return rows


def consensus_captions(
    train_captions: Sequence[str], nearest: np.ndarray, *, m: int = 4
) -> list[str]:
    """Return for each image the caption that its nearest images' captions agree on most.

    Devlin et al., 2015, arXiv:1505.04467. Agreement is the mean similarity (see `similarities`) to
    the m most similar of the captions of its `neighbours` (n, k); equal ones, as images of one case
    share, have one vote.
    """
    texts = [text.split() for text in tokenized(train_captions)]
    owner = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    words = pd.factorize(np.array([word for words in texts for word in words], object))[0]
    vectors = Ngrams(words, owner, len(texts)).vectors(words, owner, len(texts))
    same = pd.Series(range(len(texts))).groupby(list(train_captions)).transform("min").to_numpy()
    chosen = []
    for start in range(0, len(nearest), _COMPARED):
        known, places = np.unique(same[nearest[start : start + _COMPARED]], return_inverse=True)
        similarity = similarities(vectors, known, vectors, known)
        np.fill_diagonal(similarity, -np.inf)  # a caption always agrees with itself
        for row in places.reshape(-1, nearest.shape[1]):
            candidates = np.array(list(dict.fromkeys(row)))
            others = max(1, min(m, len(candidates) - 1))
            ranked = -np.sort(-similarity[candidates[:, None], candidates], axis=1)
            best = candidates[ranked[:, :others].mean(axis=1).argmax()]
            chosen.append(train_captions[known[best]])
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


def shuffled_captions(captions: Sequence[str], groups: Sequence | None = None) -> list[list[str]]:
    """Return the captions in `RUNS` orders of `shuffled`; of fewer than two captions, no run."""
    n = len(captions)
    if n < 2:
        print("NOTE: One test image cannot be shuffled: that row is left out.")
        return []
    largest = pd.Series(labels(groups, n)).value_counts().max()
    if 2 * largest > n:
        print(f"NOTE: {largest} of {n} test images are of one case: some of them get each other's "
              "captions when shuffled, so that row scores too high.")  # fmt: skip
    orders = (shuffled(n, seed, groups) for seed in range(RUNS))
    return [[captions[i] for i in order] for order in orders]


def find_leaks(
    frames: Mapping[str, pd.DataFrame], features: Mapping[str, np.ndarray], alike: float = 0.98
) -> pd.DataFrame:
    """Count images with duplicates in "train", which inflate test scores, one row per other split.

    `features` (n, d) are in the frames' order, `alike` is a cosine of them minus training's mean.
    An image that has several captions counts once.
    """
    train_images = {hash(row.tobytes()) for row in features["train"]}
    train_captions = {tuple(clean(caption)) for caption in frames["train"].caption}
    directions = _directions(features)
    rows = {}
    for split, frame in frames.items():
        if split != "train":
            once = np.flatnonzero(~frame.id.duplicated())
            some = directions[split][once]
            some = some[_may_reach(alike, directions["train"], some)]
            near = neighbours(directions["train"], some, 1)[:, 0]
            cosines = (some * directions["train"][near]).sum(axis=1)
            same = [tuple(clean(caption)) in train_captions for caption in frame.caption]
            rows[split] = {
                "images": len(once),
                "the same image": sum(
                    hash(features[split][i].tobytes()) in train_images for i in once
                ),
                "nearly the same image": int((cosines >= alike).sum()),
                "the same caption": frame.id[same].nunique(),
            }
    return pd.DataFrame(rows).T.rename_axis("split")


def _may_reach(cosine: float, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return whether a unit row may have this cosine with one of "train", bool (n,).

    The product of all dimensions is at most that of the first ones and the others' norms.
    """
    ours, theirs = (
        np.hstack([part[:, :_FIRST], np.linalg.norm(part[:, _FIRST:], axis=1, keepdims=True)])
        for part in (rows, train)
    )
    blocks = (ours[i : i + _BOUNDED] @ theirs.T for i in range(0, len(ours), _BOUNDED))
    return np.concatenate([block.max(axis=1) for block in blocks]) >= cosine - 1e-5


def _directions(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return unit vectors, float32 (n, _PROJECTED), whose products approximate the cosines."""
    mean = features["train"].mean(axis=0, dtype=np.float32)
    projection = np.random.default_rng(0).normal(size=(len(mean), _PROJECTED)).astype(np.float32)
    directions = {}
    for split, matrix in features.items():
        parts = (matrix[i : i + _ROWS] - mean for i in range(0, len(matrix), _ROWS))
        directions[split] = _unit(np.concatenate([part @ projection for part in parts]))
    return directions
