"""Makes captions as long as the references: beams prefer short ones, which every score punishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from roco_caption.batches import arrays_of
from roco_caption.feature_table import sampled
from roco_caption.searching import FeatureCaptioner, Search
from roco_caption.text import END

SAMPLE = 512  # images are enough to know a mean length by
FEW = 3  # beams are enough to know how much shorter than wanted captions are
SHARE = 0.75  # of the penalty, where neighbours choose among what is found


def match_length(
    captioner: FeatureCaptioner,
    features: Any,
    tokens: np.ndarray,
    *,
    most: float = 4.0,
    steps: int = 5,
) -> Search:
    """Find the search with which captions are as long as the references on average.

    A few beams tell by how many nats the end must be less probable than it is. Where neighbours
    choose among the captions found, most of that is asked of the search (`SHARE`), which then
    finds short and long ones, and the rest of the choice, by a bonus for each word.

    Args:
        captioner: its own search is the one to adjust.
        features: of the validation images, as `caption_features` takes them.
        tokens: their encoded captions, int32 (n, length).
        most: the largest penalty tried, in nats.
        steps: halvings of the interval that the penalty is looked for in.

    Returns:
        The captioner's search with the end penalty, and with neighbours the word bonus, of those
        tried that come nearest; each is 0 where captions are long enough without.
    """
    rows = sampled(len(tokens), SAMPLE)
    images = tuple(array[rows] for array in arrays_of(features))
    wanted = _mean_words(tokens[rows])
    few = replace(captioner.search, neighbours=0, beams=min(captioner.search.beams, FEW))

    def surplus(penalty: float) -> float:
        captions = captioner.caption_features(images, replace(few, end_penalty=penalty))
        return _mean_words(captioner.tokenizer.encode([c.text for c in captions])) - wanted

    found = {0.0: surplus(0.0)}
    if found[0.0] < 0:
        found |= _halved(surplus, 0.0, most, steps)
    penalty = min(found, key=lambda p: abs(found[p]))
    if not captioner.search.neighbours:
        return replace(captioner.search, end_penalty=penalty)
    search = replace(captioner.search, end_penalty=SHARE * penalty)
    candidates = captioner.candidates(images, search)
    every = np.arange(len(candidates.words))

    def chosen(bonus: float) -> float:
        return float(candidates.words[every, candidates.ranked(bonus)[:, 0]].mean()) - wanted

    found = {0.0: chosen(0.0)}
    if found[0.0] < 0:
        found |= _halved(chosen, 0.0, 1.0, 9)
    return replace(search, word_bonus=min(found, key=lambda bonus: abs(found[bonus])))


def _mean_words(tokens: np.ndarray) -> float:
    """Return how many words captions have on average."""
    return float((tokens > END).sum(axis=1).mean())


def _halved(surplus: Callable, low: float, high: float, steps: int) -> dict[float, float]:
    """Return what a rising function is at the middles of intervals that close on its zero."""
    found = {}
    for _ in range(steps):
        middle = (low + high) / 2
        found[middle] = surplus(middle)
        low, high = (middle, high) if found[middle] < 0 else (low, middle)
    return found
