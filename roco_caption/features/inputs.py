"""What the decoder learns from and is tested on: captions, their words, and features, by split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.data.cases import cases_in
from roco_caption.features.table import Features, arrays_of, images_digest
from roco_caption.text.tokenizer import CaptionTokenizer

Frames = dict[str, pd.DataFrame]  # {split: DataFrame[id, image, caption]}
OTHER_DECODER = (
    "The {} have changed. Run the cell that makes the decoder (`make_decoder`) and those after it "
    "again."
)


def captions_digest(frames: Frames) -> str:
    """Return a checksum of all splits' images and captions, in hexadecimal."""
    digest = hashlib.sha256()
    for split, frame in frames.items():
        digest.update("\0".join([split, *frame.id, *frame.caption]).encode("utf-8", "replace"))
    return digest.hexdigest()


def mean_image(features: Any) -> tuple[np.ndarray, ...]:
    """Return the average image, an array (1, ...) per input of `arrays_of`."""
    return tuple(array.mean(axis=0, keepdims=True) for array in arrays_of(features))


@dataclass(frozen=True)
class Words:
    """The vocabulary, and the captions as the decoder takes them: {split: int32 (n, length)}."""

    tokenizer: CaptionTokenizer
    tokens: dict[str, np.ndarray]
    texts: np.ndarray | None = None  # captions without images, int32 (m, length)
    source: str = ""  # `captions_digest` of what they were made from


@dataclass(frozen=True)
class Inputs:
    """What the decoder sees of each image, by split."""

    frames: Frames  # of the images that have features
    features: dict[str, Any]  # {split: (n, d), or with attention a pair of it and grids}
    encoder: dict[str, Any]  # as in `Features`
    missing: list[str]  # one line per image without features: its id and the reason
    name: str = ""  # of the data set, where it is known

    @cached_property
    def vectors(self) -> dict[str, Any]:
        """The features without the grids."""
        return {split: arrays_of(arrays)[0] for split, arrays in self.features.items()}

    @cached_property
    def once(self) -> np.ndarray:
        """The training images' first rows, as an image has a row per caption: int64 (k,)."""
        return np.flatnonzero(~self.frames["train"].id.duplicated())

    @cached_property
    def cases(self) -> dict[str, pd.Series]:
        """The patient or article of each image, see `cases_in`."""
        return {split: cases_in(frame) for split, frame in self.frames.items()}

    def refuse(self, words: Words, *members: Any) -> None:
        """Raise a UserError if words or decoders were made for other captions or features."""
        if words.source not in ("", captions_digest(self.frames)):
            raise UserError("The captions have changed. Run the cell with `index_words` again.")
        self.refuse_members(*members)
        expected = words.tokenizer.vocab_size, words.tokenizer.max_words + 1
        for member in members:
            known, sizes = member.ratings, (member.sizes["vocab_size"], member.sizes["max_len"])
            same = not known or np.array_equal(known.tokens, words.tokens["train"][known.rows])
            if not same or sizes != expected:
                raise UserError(OTHER_DECODER.format("words"))

    def refuse_members(self, *members: Any) -> None:
        """Raise a UserError if decoders were made for other features."""
        if any(m.ratings and m.ratings.source not in ("", self._digest) for m in members):
            raise UserError(OTHER_DECODER.format("features"))

    @cached_property
    def _digest(self) -> str:
        return images_digest(self.features["train"], self.cases["train"])

    @property
    def references(self) -> Sequence[Any]:
        """The references of the test images: a caption each, or if any has several, all of each."""
        test = self.frames["test"]
        several = "references" in test and (test.references.str.len() > 1).any()
        return list(test.references if several else test.caption)

    def image(self, split: str, row: int) -> tuple[Any, ...]:
        """Return the features of one image, as `Captioner.caption_features` takes them."""
        return tuple(array[row : row + 1] for array in arrays_of(self.features[split]))


def select_inputs(
    frames: Frames, features: Features, *, attention: bool = False, lazy: bool = False
) -> Inputs:
    """Select the features of each split's images, and leave out images without any.

    `attention` adds the grids; `lazy` leaves features on disk, to be read batch by batch. Raises a
    UserError if no image of a split has features, or if they have no grids.
    """
    selected: dict[str, pd.DataFrame] = {}
    missing: list[str] = []
    arrays: dict[str, Any] = {}
    for split, frame in frames.items():
        if frame.empty:
            raise UserError(f"The captions have no {split} split.")
        mask = frame.id.isin(features.ids)
        for name in frame.id[~mask].unique():
            missing.append(f"{name}: {features.skipped.get(name, 'not among the features')}")
        if not mask.any():
            raise UserError(
                f"No image of the {split} split has features ({missing[-1]}). Check that "
                "FEATURES_FILE belongs to this data set, and the images of the split."
            )
        selected[split] = frame[mask].reset_index(drop=True)
        ids = list(selected[split].id)
        arrays[split] = features.select_rows(ids) if lazy else features.select(ids)
        if attention:
            arrays[split] = arrays[split], features.select_grid(ids)
    return Inputs(selected, arrays, features.encoder, missing)


def index_words(
    frames: Frames, texts: Sequence[str] = (), *, min_frequency: int = 3, max_words: int = 50
) -> Words:
    """Make the vocabulary of the training captions, and encode all captions with it.

    Args:
        frames: captions by split.
        texts: captions without images; their words do not make the vocabulary.
        min_frequency: words that are rarer in the training captions become unknown.
        max_words: longer captions are truncated.

    Raises:
        UserError: no word is that frequent.
    """
    captions = list(frames["train"].caption)
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=min_frequency, max_words=max_words)
    tokens = {split: tokenizer.encode(list(frame.caption)) for split, frame in frames.items()}
    encoded = tokenizer.encode(texts) if texts else None
    return Words(tokenizer, tokens, encoded, captions_digest(frames))
