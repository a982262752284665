"""`Captioner`: images, or their features, to captions; searches are compiled once and reused."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roco_caption.core.backend import compiled
from roco_caption.core.errors import UserError, memory_for
from roco_caption.data.images import read_image
from roco_caption.decoder.model import Decoder, Ensemble
from roco_caption.features.encoder import build_encoder, describe
from roco_caption.features.table import arrays_of
from roco_caption.search.beam import Search, beam_candidates, beam_search, contrasted
from roco_caption.search.bundle import read_bundle, write_bundle
from roco_caption.search.greedy import IMPOSSIBLE, NARROWS, greedy_search
from roco_caption.search.rerank import Candidates, Consensus, image_vectors
from roco_caption.text.tokenizer import CaptionTokenizer

# images captioned at once; one shape, so compiled once
ROWS = 1024 if NARROWS else 512  # other backends decode the padding as well
FEW_BEAMS = 5  # with more, fewer images at once


class Caption(NamedTuple):
    """A caption and its log-probability, in nats."""

    text: str
    log_probability: float

    @property
    def probability(self) -> float:
        """The decoder's probability of exactly these words."""
        return math.exp(self.log_probability)


class Captioner:
    """Captions images.

    Args:
        decoder: a trained one, or an `Ensemble`.
        tokenizer: its vocabulary.
        search: how captions are decoded unless a call says otherwise.
        consensus: the training images, for searches with `neighbours`.
        sizes: the arguments of `build_decoder`; `save` needs them.
        encoder: of `describe`, with `requested` weights and seed; without it, or where the features
            were precomputed, only features can be captioned.
    """

    def __init__(
        self,
        decoder: Decoder | Ensemble,
        tokenizer: CaptionTokenizer,
        search: Search | None = None,
        consensus: Consensus | None = None,
        *,
        sizes: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
    ) -> None:
        self.decoder, self.tokenizer, self.consensus = decoder, tokenizer, consensus
        self.search = search or Search()
        self.sizes, self.encoder = sizes or {}, encoder or {}
        self._encoder_model: Any = None
        self._searches: dict[tuple[Search, bool], Callable] = {}

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Captioner:
        """Rebuild a captioner from its run's folder.

        Raises:
            UserError: a file of the bundle is missing, damaged, or does not fit the others.
        """
        return cls(**read_bundle(Path(folder)))

    def save(self, folder: str | os.PathLike) -> None:
        """Write what `Captioner.load(folder)` needs beside the weights, which `train` keeps there.

        Args:
            folder: of the run.
        """
        write_bundle(
            Path(folder), decoder=self.decoder, tokenizer=self.tokenizer, search=self.search,
            consensus=self.consensus, sizes=self.sizes, encoder=self.encoder,
        )  # fmt: skip

    def caption(self, image: str | os.PathLike, search: Search | None = None) -> Caption:
        """Caption one image file.

        Raises:
            ImageError: the file holds no image that can be decoded.
            UserError: the captioner was trained on precomputed features.
        """
        return self.caption_images([image], search)[0]

    def caption_images(
        self, images: Sequence[str | os.PathLike], search: Search | None = None
    ) -> list[Caption]:
        """Caption image files; see `caption`."""
        return self.caption_features(self.encode(images), search)

    def encode(self, images: Sequence[str | os.PathLike]) -> Any:
        """Return the features of image files, float32 (len(images), d); with attention a pair.

        Raises:
            ImageError: a file holds no image that can be decoded.
            UserError: the captioner was trained on precomputed features.
        """
        if "image_size" not in self.encoder or "grid_file" in self.encoder:
            raise UserError(
                f"This captioner was trained on precomputed features ({self.encoder.get('name')}), "
                "and their encoder is unknown. Compute features of your image in the same way and "
                "call caption_features."
            )
        size = self.encoder["image_size"]
        pixels = np.stack([read_image(Path(image), size) for image in images])
        if self._encoder_model is None:
            self._encoder_model = self._build_encoder()
        with memory_for("encoding images", "If that is not enough, caption fewer at once."):
            output = self._encoder_model.predict(pixels, verbose=0)
        return tuple(output) if isinstance(output, list) else output

    def _build_encoder(self) -> Any:
        name, requested = self.encoder["name"], self.encoder["requested"]
        weights = describe(name, **requested)["weights"]
        if weights != self.encoder["weights"]:
            raise UserError(
                f"The captioner was trained with encoder weights {self.encoder['weights']}, but "
                f"{requested['weights']} holds {weights}. Bring that file back."
            )
        return build_encoder(name, **requested, with_grid="grid" in self.encoder)

    def caption_features(self, features: Any, search: Search | None = None) -> list[Caption]:
        """Caption images by their features.

        Args:
            features: float (n, d); with attention a pair of them and the grids, an array or
                `LazyRows` (n, cells, channels).
            search: how to decode; the captioner's own way when None.

        Returns:
            `n` captions in the same order.
        """
        search = search or self.search
        if search.neighbours:
            return [captions[0] for captions in self.best_captions(features, 1, search)]
        decode = self._compiled(search)
        return [
            Caption(self.tokenizer.decode(tokens), float(log_p))
            for tokens, log_p in _in_rows(decode, features, _rows(search))
        ]

    def best_captions(
        self, features: Any, count: int = 3, search: Search | None = None
    ) -> list[list[Caption]]:
        """Return several captions per image, found by at least that many beams.

        Args:
            features: as `caption_features` takes them.
            count: captions per image; the vocabulary may allow fewer.
            search: how to decode; the captioner's own way when None.

        Returns:
            The captions of each image, the best first: by `Candidates.ranked` with neighbours,
            else by log-probability divided by length to the power `length_power`.
        """
        search = search or self.search
        search = replace(search, beams=max(count, search.beams))
        candidates = self.candidates(features, search)
        order = candidates.ranked(search.word_bonus) if search.neighbours else None
        best = []
        for i, (rows, log_ps) in enumerate(zip(candidates.tokens, candidates.log_p, strict=True)):
            ranks = range(len(rows)) if order is None else order[i]
            ranks = [j for j in ranks if log_ps[j] > IMPOSSIBLE / 2][:count]
            best.append([Caption(self.tokenizer.decode(rows[j]), float(log_ps[j])) for j in ranks])
        return best

    def candidates(self, features: Any, search: Search | None = None) -> Candidates:
        """Return all captions that the beams find, in the order of the search.

        Args:
            features: as `caption_features` takes them.
            search: how to decode; the captioner's own way when None. Without `neighbours` the
                agreement of all is 0.

        Raises:
            UserError: the search has `neighbours`, but the captioner no training images.
        """
        search = search or self.search
        if search.neighbours and self.consensus is None:
            raise UserError(
                "Reranking by neighbours needs the training images: give the captioner "
                "consensus=Consensus.fit(...), or search with neighbours=0."
            )
        rows = list(_in_rows(self._compiled(search, ranked=True), features, _rows(search)))
        tokens, log_p = (np.stack([row[k] for row in rows]) for k in range(2))
        agreement = np.zeros_like(log_p)
        if search.neighbours and self.consensus is not None:
            vectors = image_vectors(self.decoder, features)
            agreement = self.consensus.agreement(vectors, tokens, search.neighbours)
        return Candidates(tokens, log_p, agreement)

    def _compiled(self, search: Search, ranked: bool = False) -> Callable:
        # one compilation serves all penalties and ways to rerank
        key = replace(search, end_penalty=0.0, neighbours=0, word_bonus=0.0), ranked
        if key not in self._searches:
            find = beam_candidates if ranked else beam_search

            def decode(features: Any, n: Any, end_penalty: Any) -> tuple[Any, Any]:
                sizes = {"n": n, "max_words": self.tokenizer.max_words}
                if NARROWS:
                    features = tuple(array[:n] for array in features)
                if search.contrast:
                    start = contrasted(self.decoder, features, search.contrast)
                else:
                    start = self.decoder.start(features)
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
    """Return how many images are captioned at once: fewer with many beams."""
    return max(ROWS * FEW_BEAMS // max(search.beams, FEW_BEAMS), 32)


def _in_rows(
    decode: Callable, features: Any, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `decode` returns for each image, called with `count` images at a time."""
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
    """Return the rows as float32 followed by zeros, `count` rows in all."""
    padded = np.zeros((count, *rows.shape[1:]), np.float32)
    padded[: len(rows)] = rows
    return padded
