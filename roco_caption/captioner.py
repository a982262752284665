"""The saved bundle of encoder, tokenizer and decoder that captions images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roco_caption.batches import arrays_of
from roco_caption.decoding import IMPOSSIBLE, beam_candidates, beam_search, greedy_search
from roco_caption.encoders import build_encoder, describe
from roco_caption.files import UserError, read_json, write_json
from roco_caption.images import read_image
from roco_caption.model import Captioning, build_captioning
from roco_caption.runtime import compiled
from roco_caption.sealed import verify
from roco_caption.text import END, CaptionTokenizer
from roco_caption.training import WEIGHTS

BUNDLE = "captioner.json"
VOCABULARY = "tokenizer.json"
ROWS = 128  # captions decoded at once; one shape, so compiled once


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
    """How captions are decoded, see `beam_candidates`; one beam without `no_repeat` is greedy."""

    beams: int = 3
    length_power: float = 1.0
    no_repeat: int = 2
    end_penalty: float = 0.0


class Captioner:
    """Captions images.

    Args:
        captioning: the trained decoder.
        tokenizer: its vocabulary.
        sizes: the arguments that `build_captioning` made the decoder with.
        encoder: of `describe`, with `requested` weights and seed; or of features computed
            elsewhere, and then only features can be captioned.
        search: how captions are decoded unless a call says otherwise.
    """

    def __init__(
        self,
        captioning: Captioning,
        tokenizer: CaptionTokenizer,
        *,
        sizes: dict[str, Any],
        encoder: dict[str, Any],
        search: Search | None = None,
    ) -> None:
        self.captioning, self.tokenizer = captioning, tokenizer
        self.sizes, self.encoder = sizes, encoder
        self.search = search or Search()
        self._searches: dict[tuple[Search, bool], Callable] = {}
        self._encoder_model: Any = None

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

    def look(self, features: Any, captions: Sequence[str]) -> list[tuple[list[str], np.ndarray]]:
        """Return where the decoder looks for each word of some captions.

        Args:
            features: a pair of float (n, d) and the grids, an array or a `Grid`.
            captions: n texts in the same order, its own or others'.

        Returns:
            For each caption its words as the decoder knows them, and the weights of the grid's
            cells for each, float32 (words, cells), which sum to one.

        Raises:
            UserError: this captioner has no attention.
        """
        if self.captioning.where is None:
            raise UserError("This captioner was trained without attention, and looks nowhere.")
        arrays, tokens, looks = arrays_of(features), self.tokenizer.encode(captions), []
        for start in range(0, len(tokens), ROWS):
            rows = tokens[start : start + ROWS]
            parts = [np.asarray(array[start : start + ROWS], np.float32) for array in arrays]
            weights = np.asarray(self.captioning.where([*parts, rows[:, :-1]]))
            for row, weight in zip(rows, weights, strict=True):
                words = [self.tokenizer.words[token] for token in row[row > END]]
                looks.append((words, weight[: len(words)]))
        return looks

    def _compiled(self, search: Search, ranked: bool = False) -> Callable:
        key = replace(search, end_penalty=0.0), ranked  # one compilation serves every penalty
        if key not in self._searches:
            sizes = {"n": ROWS, "max_words": self.tokenizer.max_words}
            find = beam_candidates if ranked else beam_search

            def decode(features: Any, end_penalty: Any) -> tuple[Any, Any]:
                state = self.captioning.start(features)
                if search.beams == 1 and not search.no_repeat and not ranked:
                    return greedy_search(self.captioning.step, state, **sizes)
                options = sizes | asdict(search) | {"end_penalty": end_penalty}
                return find(self.captioning.step, state, **options)

            self._searches[key] = compiled(decode)
        penalty = np.asarray(search.end_penalty, np.float32)
        return lambda features: self._searches[key](features, penalty)

    def caption(self, image: str | os.PathLike, search: Search | None = None) -> Caption:
        """Caption one image file.

        Raises:
            ImageError: the file holds no image that can be decoded.
            UserError: the captioner was trained on features computed elsewhere.
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
            UserError: the captioner was trained on features computed elsewhere.
        """
        if "image_size" not in self.encoder or "grid_file" in self.encoder:
            raise UserError(
                f"This captioner was trained on features read from a file ({self.encoder['name']}),"
                " and what made them is not known: call caption_features with features made the "
                "same way."
            )
        size = self.encoder["image_size"]
        return self._encode(np.stack([read_image(Path(image), size) for image in images]))

    def _encode(self, pixels: np.ndarray) -> Any:
        if self._encoder_model is None:
            name, wanted = self.encoder["name"], self.encoder["requested"]
            found = describe(name, **wanted)["weights"]
            if found != self.encoder["weights"]:
                raise UserError(
                    f"The captioner was trained with encoder weights {self.encoder['weights']}, "
                    f"and {wanted['weights']} holds {found}. Bring that file back."
                )
            self._encoder_model = build_encoder(name, **wanted, with_grid="grid" in self.encoder)
        output = self._encoder_model.predict(pixels, verbose=0)
        return tuple(output) if isinstance(output, list) else output

    def save(self, folder: str | os.PathLike) -> None:
        """Write the bundle; `Captioner.load(folder)` needs nothing else.

        Args:
            folder: of the run; `train` keeps the weights there.
        """
        folder = Path(folder)
        self.tokenizer.save(folder / VOCABULARY)
        bundle = {
            "format": 1,
            "sizes": self.sizes,
            "encoder": self.encoder,
            "search": asdict(self.search),
            "weights": WEIGHTS,
            "tokenizer": VOCABULARY,
        }
        write_json(folder / BUNDLE, bundle, sealed=True)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Captioner:
        """Rebuild a captioner from its folder.

        Raises:
            UserError: a file of the bundle is missing, damaged, or does not fit the others.
        """
        folder = Path(folder)
        bundle = read_json(folder / BUNDLE)
        tokenizer = CaptionTokenizer.load(folder / VOCABULARY)
        try:
            sizes, encoder = bundle["sizes"], bundle["encoder"]
            search = Search(**bundle["search"])
            captioning = build_captioning(**sizes)
            vocab_size, _ = sizes["vocab_size"], encoder["name"]
        except Exception as error:  # Keras raises many kinds for sizes that are none
            raise UserError(f"{folder / BUNDLE} describes no captioner ({error}).") from error
        if tokenizer.vocab_size != vocab_size:
            raise UserError(
                f"{folder / VOCABULARY} has {tokenizer.vocab_size} words, but the decoder was "
                f"trained with {vocab_size}. Bring back the file of that training."
            )
        try:
            verify(folder / WEIGHTS)
            captioning.every_word.load_weights(folder / WEIGHTS)
        except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
            raise UserError(
                f"{folder / WEIGHTS} could not be loaded ({str(error).splitlines()[0][:200]}). It "
                "is missing, damaged, or of another model: run the notebook's training cell "
                "again, which writes it anew, or bring back the file of that training."
            ) from error
        return cls(captioning, tokenizer, sizes=sizes, encoder=encoder, search=search)


def _in_rows(decode: Callable, features: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `decode` finds for each image, called with `ROWS` images at a time."""
    arrays = arrays_of(features)
    for start in range(0, len(arrays[0]), ROWS):
        parts = [array[start : start + ROWS] for array in arrays]
        padded = tuple(_padded(part) for part in parts)
        tokens, log_p = (np.asarray(array)[: len(parts[0])] for array in decode(padded))
        yield from zip(tokens, log_p, strict=True)


def _padded(rows: np.ndarray) -> np.ndarray:
    """Return the rows as float32 with empty ones below, `ROWS` in all."""
    padded = np.zeros((ROWS, *rows.shape[1:]), np.float32)
    padded[: len(rows)] = rows
    return padded
