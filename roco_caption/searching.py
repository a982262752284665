"""Images' features to captions, many at once: searches compiled once, whatever they are asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from roco_caption.backend import compiled
from roco_caption.batches import arrays_of
from roco_caption.beams import beam_candidates, beam_search
from roco_caption.contrast import contrasted
from roco_caption.decoding import IMPOSSIBLE, NARROWS, greedy_search
from roco_caption.ensemble import Ensemble
from roco_caption.memory import memory_for
from roco_caption.model import Captioning
from roco_caption.text import CaptionTokenizer

# captions decoded at once; one shape, so compiled once
ROWS = 1024 if NARROWS else 512  # elsewhere padding is decoded as well


class Caption(NamedTuple):
    """A caption and its log-probability, in nats."""

    text: str
    log_probability: float

    @property
    def probability(self) -> float:
        """How probable the decoder holds exactly these words to be."""
        return math.exp(self.log_probability)


@dataclass(frozen=True)
class Search:
    """How captions are decoded; one beam without `no_repeat` is greedy.

    Attributes:
        beams: this and the next three: see `beam_candidates`.
        contrast: see `contrasted`; probabilities are then those after weighing. 0 does without.
    """

    beams: int = 3
    length_power: float = 1.0
    no_repeat: int = 2
    end_penalty: float = 0.0
    contrast: float = 0.0


class FeatureCaptioner:
    """Captions images by their features.

    Args:
        captioning: the trained decoder, or an `Ensemble` of them.
        tokenizer: its vocabulary.
        search: how captions are decoded unless a call says otherwise.
    """

    def __init__(
        self,
        captioning: Captioning | Ensemble,
        tokenizer: CaptionTokenizer,
        search: Search | None = None,
    ) -> None:
        self.captioning, self.tokenizer = captioning, tokenizer
        self.search = search or Search()
        self._searches: dict[tuple[Search, bool], Callable] = {}

    def caption_features(self, features: Any, search: Search | None = None) -> list[Caption]:
        """Caption images by their features.

        Args:
            features: float (n, d); with attention a pair of them and the grids, an array or a
                `Grid` (n, cells, channels).
            search: how to decode; the captioner's own way when None.

        Returns:
            `n` captions in the same order.
        """
        decode = self._compiled(search or self.search)
        return [
            Caption(self.tokenizer.decode(tokens), float(log_p))
            for tokens, log_p in _in_rows(decode, features)
        ]

    def best_captions(
        self, features: Any, count: int = 3, search: Search | None = None
    ) -> list[list[Caption]]:
        """Return several captions an image, found by at least so many beams.

        Args:
            features: as `caption_features` takes them.
            count: captions wanted; the vocabulary may allow fewer.
            search: how to decode; the captioner's own way when None.

        Returns:
            For each image its captions, in the order of the search: log-probability by length to
            the power `length_power`, best first.
        """
        search = search or self.search
        search = replace(search, beams=max(count, search.beams))
        ranked = []
        for rows, log_ps in _in_rows(self._compiled(search, ranked=True), features):
            found = [(row, float(p)) for row, p in zip(rows, log_ps, strict=True)]
            kept = [(row, p) for row, p in found if p > IMPOSSIBLE / 2][:count]
            ranked.append([Caption(self.tokenizer.decode(row), p) for row, p in kept])
        return ranked

    def _compiled(self, search: Search, ranked: bool = False) -> Callable:
        key = replace(search, end_penalty=0.0), ranked  # one compilation serves every penalty
        if key not in self._searches:
            find = beam_candidates if ranked else beam_search

            def decode(features: Any, n: Any, end_penalty: Any) -> tuple[Any, Any]:
                sizes = {"n": n, "max_words": self.tokenizer.max_words}
                if NARROWS:
                    features = tuple(array[:n] for array in features)
                if search.contrast:
                    start = contrasted(self.captioning, features, search.contrast)
                else:
                    start = self.captioning.start(features)
                if search.beams == 1 and not search.no_repeat and not ranked:
                    return greedy_search(*start, **sizes)
                options: dict[str, Any] = sizes | asdict(search) | {"end_penalty": end_penalty}
                del options["contrast"]
                return find(*start, **options)

            self._searches[key] = compiled(decode)
        penalty = np.asarray(search.end_penalty, np.float32)
        return lambda features, n: self._searches[key](features, np.asarray(n, np.int32), penalty)


def _in_rows(decode: Callable, features: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `decode` finds for each image, called with `ROWS` images at a time."""
    arrays = arrays_of(features)
    for start in range(0, len(arrays[0]), ROWS):
        parts = [array[start : start + ROWS] for array in arrays]
        n = len(parts[0])
        with memory_for(f"captioning {ROWS} images at once", "If that is not enough, lower BEAMS."):
            tokens, log_p = map(np.asarray, decode(tuple(map(_padded, parts)), n))
        yield from zip(tokens[:n], log_p[:n], strict=True)


def _padded(rows: np.ndarray) -> np.ndarray:
    """Return the rows as float32 with empty ones below, `ROWS` in all."""
    padded = np.zeros((ROWS, *rows.shape[1:]), np.float32)
    padded[: len(rows)] = rows
    return padded
