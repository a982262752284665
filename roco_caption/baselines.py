"""Captions to beat: the most frequent, the nearest image's, the neighbours' consensus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from roco_caption.files import UserError
from roco_caption.nearest import neighbours
from roco_caption.ngrams import Ngrams, NgramVectors, similarities
from roco_caption.protocols import tokenized


def most_frequent_caption(train_captions: Sequence[str], n: int) -> list[str]:
    """Return the most frequent training caption n times (the first of equals).

    Raises:
        UserError: there is no training caption.
    """
    if not len(train_captions):
        raise UserError("There is no training caption to take the most frequent of.")
    return [Counter(train_captions).most_common(1)[0][0]] * n


def nearest_captions(
    train_features: np.ndarray, train_captions: Sequence[str], features: np.ndarray
) -> list[str]:
    """Return for each image the caption of the training image nearest by cosine similarity.

    Args:
        train_features: float (m, d), of any precision.
        train_captions: m captions.
        features: float (n, d).

    Returns:
        n captions; of equally near images, the first one's.

    Raises:
        UserError: features and captions do not match.
    """
    _check(train_features, train_captions, features)
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

    Devlin, Gupta, Girshick, Mitchell, Zitnick, 2015, "Exploring Nearest Neighbor Approaches for
    Image Captioning" (arXiv:1505.04467): of the k nearest images' captions, the one whose m most
    similar others are the most similar. Similarity is CIDEr's: the cosine of tf-idf vectors of
    n-grams, mean over n = 1 … 4. Equal captions, as images of one case share, have one vote.

    Args:
        train_features: float (t, d), of any precision.
        train_captions: t captions.
        features: float (n, d).
        k: how many neighbours; no more than t are taken. The default is the best on MedPix 2.0's
            validation split (1,481 training images); Devlin et al. took 90 of COCO's 80,000. Choose
            it on a validation split.
        m: to how many of the others a caption is held; few find the heart of a cluster.

    Returns:
        n captions; of equals, the nearest image's.

    Raises:
        UserError: features and captions do not match.
    """
    _check(train_features, train_captions, features)
    vectors = _vectors(train_captions)
    first_with: dict[str, int] = {}
    same = np.array([first_with.setdefault(text, i) for i, text in enumerate(train_captions)])
    chosen = []
    for images in same[neighbours(train_features, features, k)]:
        candidates = np.array(list(dict.fromkeys(images)))
        similar = similarities(vectors, candidates, vectors, candidates)
        np.fill_diagonal(similar, -np.inf)  # a caption always agrees with itself
        others = max(1, min(m, len(candidates) - 1))
        agreement = -np.sort(-similar, axis=1)[:, :others].mean(axis=1)
        chosen.append(train_captions[candidates[agreement.argmax()]])
    return chosen


def _check(train_features: np.ndarray, train_captions: Sequence[str], features: np.ndarray) -> None:
    if not len(train_captions) or len(train_features) != len(train_captions):
        raise UserError(
            f"There are {len(train_features)} training features for {len(train_captions)} training "
            "captions: give one row of features a caption, in the same order."
        )
    if train_features.shape[1] != features.shape[1]:
        raise UserError(
            f"The training features have {train_features.shape[1]} numbers an image and the others "
            f"{features.shape[1]}: extract both with the same encoder."
        )


def _vectors(captions: Sequence[str]) -> NgramVectors:
    """Return the captions' n-gram vectors, rarity counted among themselves."""
    words = [caption.split() for caption in tokenized(captions, "coco")]
    owner = np.repeat(np.arange(len(words)), [len(caption) for caption in words])
    numbers: dict[str, int] = {}
    said = np.array([numbers.setdefault(w, len(numbers)) for c in words for w in c], np.int64)
    return Ngrams(said, owner, len(words)).vectors(said, owner, len(words))


def shuffled(n: int, seed: int, groups: Sequence | None = None) -> np.ndarray:
    """Return a random permutation that gives every image another one.

    Captions of images shuffled so show what a model knows without looking at the image.

    Args:
        n: number of images.
        seed: of the permutation.
        groups: n labels, equal for images of one case: each image then gets one of another case.

    Returns:
        int64 (n,): image i is to be given the features of image `result[i]`.

    Raises:
        UserError: a case holds more than half of the images (or the only image).
    """
    labels = np.arange(n) if groups is None else np.asarray(groups)
    if len(labels) != n:
        raise UserError(f"There are {len(labels)} groups for {n} images: give one an image.")
    case, sizes = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    largest = int(sizes.max(initial=0))
    if 2 * largest > n:
        raise UserError(f"{largest} of {n} images are one case, so they cannot all get another's.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    order = order[np.argsort(rng.permutation(len(sizes))[case[order]], kind="stable")]
    result = np.empty(n, np.int64)
    # Cases lie together in this order, so a step as long as the largest leaves any of them.
    result[order] = np.roll(order, -largest)
    return result
