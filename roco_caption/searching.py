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
from roco_caption.consensus import Candidates, Consensus, described
from roco_caption.contrast import contrasted
from roco_caption.decoding import IMPOSSIBLE, NARROWS, greedy_search
from roco_caption.ensemble import Ensemble
from roco_caption.files import UserError
from roco_caption.memory import memory_for
from roco_caption.model import Captioning
from roco_caption.text import CaptionTokenizer

# captions decoded at once; one shape, so compiled once
ROWS = 1024 if NARROWS else 512  # elsewhere padding is decoded as well
FEW_BEAMS = 5  # with more, fewer captions at once


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
        neighbours: captions of the nearest training images that choose among what the beams found,
            see `Consensus`; 0 takes the search's own best.
        word_bonus: with neighbours, see `Candidates.ranked`.
    """

    beams: int = 3
    length_power: float = 1.0
    no_repeat: int = 2
    end_penalty: float = 0.0
    contrast: float = 0.0
    neighbours: int = 0
    word_bonus: float = 0.0


class FeatureCaptioner:
    """Captions images by their features.

    Args:
        captioning: the trained decoder, or an `Ensemble` of them.
        tokenizer: its vocabulary.
        search: how captions are decoded unless a call says otherwise.
        consensus: the training images, for searches with `neighbours`.
    """

    def __init__(
        self,
        captioning: Captioning | Ensemble,
        tokenizer: CaptionTokenizer,
        search: Search | None = None,
        consensus: Consensus | None = None,
    ) -> None:
        self.captioning, self.tokenizer, self.consensus = captioning, tokenizer, consensus
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
        search = search or self.search
        if search.neighbours:
            return [found[0] for found in self.best_captions(features, 1, search)]
        decode = self._compiled(search)
        return [
            Caption(self.tokenizer.decode(tokens), float(log_p))
            for tokens, log_p in _in_rows(decode, features, _rows(search))
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
            For each image its captions, the best first: by `Candidates.ranked` with neighbours,
            else by log-probability by length to the power `length_power`.
        """
        search = search or self.search
        search = replace(search, beams=max(count, search.beams))
        found = self.candidates(features, search)
        order = found.ranked(search.word_bonus) if search.neighbours else None
        ranked = []
        for i, (rows, log_ps) in enumerate(zip(found.tokens, found.log_p, strict=True)):
            places = range(len(rows)) if order is None else order[i]
            kept = [j for j in places if log_ps[j] > IMPOSSIBLE / 2][:count]
            ranked.append([Caption(self.tokenizer.decode(rows[j]), float(log_ps[j])) for j in kept])
        return ranked

    def candidates(self, features: Any, search: Search | None = None) -> Candidates:
        """Return all captions that the beams find, in the order of the search.

        Args:
            features: as `caption_features` takes them.
            search: how to decode; the captioner's own way when None. Without `neighbours` all
                agree alike.

        Raises:
            UserError: the search has `neighbours`, and the captioner no training images.
        """
        search = search or self.search
        if search.neighbours and self.consensus is None:
            raise UserError(
                "neighbours choose among captions, and this captioner has no training images: give "
                "it consensus=Consensus.fit(...), or set NEIGHBOURS to 0."
            )
        rows = list(_in_rows(self._compiled(search, ranked=True), features, _rows(search)))
        tokens, log_p = (np.stack([row[k] for row in rows]) for k in range(2))
        agreement = np.zeros_like(log_p)
        if search.neighbours and self.consensus is not None:
            vectors = described(self.captioning, features)
            agreement = self.consensus.agreement(vectors, tokens, search.neighbours)
        return Candidates(tokens, log_p, agreement)

    def _compiled(self, search: Search, ranked: bool = False) -> Callable:
        # one compilation serves every penalty and choice
        key = replace(search, end_penalty=0.0, neighbours=0, word_bonus=0.0), ranked
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
                for name in ("contrast", "neighbours", "word_bonus"):
                    del options[name]
                return find(*start, **options)

            self._searches[key] = compiled(decode)
        penalty = np.asarray(search.end_penalty, np.float32)
        return lambda features, n: self._searches[key](features, np.asarray(n, np.int32), penalty)


def _rows(search: Search) -> int:
    """Return how many images are captioned at once: fewer where each has many beams."""
    return max(ROWS * FEW_BEAMS // max(search.beams, FEW_BEAMS), 32)


def _in_rows(
    decode: Callable, features: Any, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `decode` finds for each image, called with `count` images at a time."""
    arrays = arrays_of(features)
    for start in range(0, len(arrays[0]), count):
        parts = [array[start : start + count] for array in arrays]
        n = len(parts[0])
        remedy = "If that is not enough, lower BEAMS."
        with memory_for(f"captioning {count} images at once", remedy):
            padded = tuple(_padded(rows, count) for rows in parts)
            tokens, log_p = map(np.asarray, decode(padded, n))
        yield from zip(tokens[:n], log_p[:n], strict=True)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the rows as float32 with empty ones below, `count` in all."""
    padded = np.zeros((count, *rows.shape[1:]), np.float32)
    padded[: len(rows)] = rows
    return padded
