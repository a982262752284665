"""Looks for test and validation images, and captions, that the training split holds as well."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from roco_caption.cleaning import clean

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
