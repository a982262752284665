"""The rows of a matrix nearest to others by cosine similarity, a part of it at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.scores.metrics import tokenized
from roco_caption.text.ngrams import Ngrams, NgramVectors, similarities
from roco_caption.text.words import clean


def neighbours(
    train_features: np.ndarray, features: np.ndarray, k: int, *, chunk: int = 4096
) -> np.ndarray:
    """Return the k training images nearest to each image by cosine similarity, nearest first.

    Args:
        train_features: float (t, d), of any precision.
        features: float (n, d).
        k: how many; no more than t are returned.
        chunk: training images compared at once: (n, chunk) similarities are held at a time.

    Returns:
        int64 (n, min(k, t)): row numbers in `train_features`.
    """
    k = min(k, len(train_features))
    queries = _unit(features)
    best = np.empty((len(queries), 0), np.float32)
    index = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(train_features), chunk):
        part = _unit(train_features[start : start + chunk])
        best = np.hstack([best, queries @ part.T])
        here = np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))
        index = np.hstack([index, here])
        top = _largest(best, k)
        best, index = np.take_along_axis(best, top, 1), np.take_along_axis(index, top, 1)
    return index


def _unit(features: np.ndarray) -> np.ndarray:
    """Return rows of length 1 in float32; a row of zeros stays one."""
    rows = np.asarray(features, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k largest values, largest first, the first of equals."""
    if k == 1:
        return values.argmax(axis=1)[:, None]
    kept = np.arange(values.shape[1])[None].repeat(len(values), 0)
    if k < values.shape[1]:
        kept = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(values, kept, 1), axis=1, kind="stable")
    return np.take_along_axis(kept, order, 1)


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
    Image Decoder" (arXiv:1505.04467): of the k nearest images' captions, the one whose m most
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


TRAIN = "train"
PROJECTED = 256  # dimensions are enough: the nearer two rows, the less a projection errs
ROWS = 1024


def find_leaks(
    frames: Mapping[str, pd.DataFrame], features: Mapping[str, np.ndarray], alike: float = 0.98
) -> pd.DataFrame:
    """Count what the other splits share with the training split, by features and words.

    Such images are no test of a model that has seen them. Looking at features instead of files
    costs no second pass over the images; two files with the same pixels have the same features.

    Args:
        frames: split to DataFrame[id, image, caption]; one of them "train".
        features: split to float (n, d), in the order of its frame.
        alike: cosine of two images' features, less the training images' mean, from which on they
            count as nearly the same.

    Returns:
        One row a split other than "train": "images", and how many of them have in training "the
        same image", "nearly the same image" (the same ones included) and "the same caption"
        (case and punctuation aside).
    """
    seen_images = {row.tobytes() for row in features[TRAIN]}
    seen_captions = {tuple(clean(caption)) for caption in frames[TRAIN].caption}
    directions = _directions(features)
    rows = {}
    for split in frames:
        if split != TRAIN:
            captions = [tuple(clean(caption)) for caption in frames[split].caption]
            rows[split] = {
                "images": len(captions),
                "the same image": sum(row.tobytes() in seen_images for row in features[split]),
                "nearly the same image": _count_alike(directions[split], directions[TRAIN], alike),
                "the same caption": sum(caption in seen_captions for caption in captions),
            }
    return pd.DataFrame(rows).T.rename_axis("split")


def _directions(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return unit vectors, float32 (n, PROJECTED), whose products are about the cosines."""
    train = features[TRAIN]
    mean = train.mean(axis=0, dtype=np.float32)
    projection = np.random.default_rng(0).normal(size=(train.shape[1], PROJECTED))
    found = {}
    for split, matrix in features.items():
        parts = (matrix[i : i + ROWS] - mean for i in range(0, len(matrix), ROWS))
        rows = np.concatenate([part @ projection.astype(np.float32) for part in parts])
        found[split] = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)
    return found


def _count_alike(rows: np.ndarray, known: np.ndarray, alike: float) -> int:
    nearest = [(rows[i : i + ROWS] @ known.T).max(axis=1) for i in range(0, len(rows), ROWS)]
    return int((np.concatenate(nearest) >= alike).sum())
