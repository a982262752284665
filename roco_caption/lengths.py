"""Makes captions as long as the references: beams prefer short ones, which every score punishes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from roco_caption.batches import arrays_of
from roco_caption.feature_table import sampled
from roco_caption.searching import FeatureCaptioner, Search
from roco_caption.text import END

SAMPLE = 512  # images are enough to know a mean length by


def match_length(
    captioner: FeatureCaptioner,
    features: Any,
    tokens: np.ndarray,
    *,
    most: float = 4.0,
    steps: int = 5,
) -> Search:
    """Find the end penalty with which captions are as long as the references on average.

    Args:
        captioner: its own search is the one to adjust.
        features: of the validation images, as `caption_features` takes them.
        tokens: their encoded captions, int32 (n, length).
        most: the largest penalty tried, in nats.
        steps: halvings of the interval that the penalty is looked for in.

    Returns:
        The captioner's search with the penalty of those tried that comes nearest; 0 where captions
        are long enough without.
    """
    rows = sampled(len(tokens), SAMPLE)
    images = tuple(array[rows] for array in arrays_of(features))
    wanted = float((tokens[rows] > END).sum(axis=1).mean())

    def surplus(penalty: float) -> float:
        search = replace(captioner.search, end_penalty=penalty)
        captions = captioner.caption_features(images, search)
        return float(np.mean([len(caption.text.split()) for caption in captions])) - wanted

    found = {0.0: surplus(0.0)}
    low, high = 0.0, most if found[0.0] < 0 else 0.0
    for _ in range(steps if high else 0):
        middle = (low + high) / 2
        found[middle] = surplus(middle)
        low, high = (middle, high) if found[middle] < 0 else (low, middle)
    return replace(captioner.search, end_penalty=min(found, key=lambda p: abs(found[p])))
