"""`Captioner`: images, or their features, to captions; each search is compiled once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from roco_caption.core.backend import compiled
from roco_caption.core.errors import UserError, at_least, memory_for
from roco_caption.core.machine import has_accelerator
from roco_caption.core.progress import BAR_SECONDS, progress_bar
from roco_caption.data.images import ImageError
from roco_caption.decoder.layers import WORD_BLOCK, on_tensorflow_cpu
from roco_caption.decoder.model import Decoder, Ensemble
from roco_caption.features.encoder import build_encoder
from roco_caption.features.extract import encode_files
from roco_caption.features.table import LazyRows, arrays_of, to_float16
from roco_caption.scores.coherence import Coherence
from roco_caption.search.beam import Search, beam_candidates, beam_search
from roco_caption.search.bundle import checked_encoder, read_bundle, run_of, write_bundle
from roco_caption.search.folder import BATCH, caption_files, image_files
from roco_caption.search.greedy import NARROWS, greedy_search, possible
from roco_caption.search.rerank import Candidates, Consensus, image_vectors
from roco_caption.text.tokenizer import CaptionTokenizer

ROWS = 1024 if NARROWS else 512  # images per call; other backends decode the padding as well
WIDER = 4  # times the beams, for images whose candidates all have a flaw
FEW_BEAMS = 5  # with more beams, fewer images per call
LOGITS = 2**22  # per word on a CPU (16 MB): the allocator returns larger arrays to the system


class Caption(NamedTuple):
    """A caption and its log-probability, in nats."""

    text: str
    log_probability: float

    @property
    def probability(self) -> float:
        """The decoder's probability of exactly these words."""
        return math.exp(self.log_probability)

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False, repr=False)
class Captioner:
    """Captions images, or their features.

    An image is what `read_image` takes, such as a path. Features are float (n, d), with attention a
    pair of these and the grids, an array or `LazyRows` (n, cells, channels).

    Batches of other sizes round differently in the last digits. This can change a caption only
    where two candidates are almost equally probable.
    """

    decoder: Decoder | Ensemble
    tokenizer: CaptionTokenizer
    search: Search = field(default_factory=Search)  # the default for all methods that take a search
    consensus: Consensus | None = None  # the training images, for searches with `neighbours`
    # for the same: captions with flaws come behind all others
    coherence: Coherence | None = None
    # of `describe`, with `requested` weights and seed; only image files need it
    encoder: dict[str, Any] = field(default_factory=dict)
    _searches: dict[tuple[Search, bool], Callable] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._weights = self._weights_now()

    def _weights_now(self) -> list[str]:
        return [member.weights_file for member in self.decoder.members]

    def refuse_retrained(self) -> None:
        """Raise a UserError if the decoder was trained again after this captioner was made."""
        if self._weights_now() != self._weights:
            raise UserError(
                "The decoder was trained again after this captioner was made. Run part 8 "
                "(`make_captioner`) again, and the cells after it."
            )

    @classmethod
    def load(cls, folder: str | os.PathLike, weights: str | os.PathLike | None = None) -> Captioner:
        """Read a run's folder, or of a folder of runs the newest, and print which.

        `weights` is where the encoder's weights file is now, if it was moved; its checksum is
        compared. UserError if a file is missing, damaged, or from another run.
        """
        captioner = cls(**read_bundle(run_of(folder)))
        if weights is not None:
            captioner.encoder = checked_encoder(captioner.encoder, weights)
        return captioner

    def save(self, folder: str | os.PathLike) -> None:
        """Write what `load` needs to the run's folder, where `train` has saved the weights."""
        write_bundle(self, Path(folder).expanduser())

    def caption(self, image: Any, search: Search | None = None) -> Caption:
        """Caption one image; raises as `encode` does."""
        return self.caption_images([image], search)[0]

    def caption_images(self, images: Sequence[Any], search: Search | None = None) -> list[Caption]:
        """Caption images; raises as `encode` does."""
        return self.caption_features(self.encode(images), search) if len(images) else []

    def caption_folder(
        self, folder: str | os.PathLike, *, batch_size: int = BATCH, search: Search | None = None
    ) -> pd.DataFrame:
        """Caption the images in a folder and its sub-folders, `batch_size` at once.

        Returns DataFrame[file, caption, log_probability, error], sorted by file. A file that cannot
        be decoded has an error and no caption (None, NaN); all others have no error (None).
        Stopped, it returns nothing; the command `caption` writes each batch.
        UserError if the folder is missing or has no image; or as `encode` says.
        """
        tables = caption_files(self, image_files(folder), batch_size=batch_size, search=search)
        return pd.concat(tables, ignore_index=True)

    def encode(self, images: Sequence[Any]) -> Any:
        """Return the features of images, rounded to float16 as in training.

        ImageError if an image cannot be decoded; UserError if the captioner has no encoder, or its
        weights are not those of the training.
        """
        features, reasons = self.encode_readable(images)
        if reasons:
            raise ImageError(next(iter(reasons.values())))
        return features

    def encode_readable(self, images: Sequence[Any]) -> tuple[Any, dict[int, str]]:
        """Return the features of images that can be decoded, and {position: reason} for others."""
        if not len(images):
            raise UserError("There are no images to encode.")
        reasons: dict[int, str] = {}
        blocks, models = [], [self.encoder_model]
        named = {
            str(i): os.path.expanduser(image) if isinstance(image, (str, os.PathLike)) else image
            for i, image in enumerate(images)
        }
        with memory_for("encoding images", "If that is not enough, caption fewer at once."):
            batch_size, rescue = min(BATCH, len(named)), partial(self._built, "float32")
            for _, arrays, skipped in encode_files(models, named, batch_size, rescue=rescue):
                reasons |= {int(i): reason for i, reason in skipped.items()}
                blocks += [[to_float16(array) for array in arrays]] if arrays else []
        features = tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return features if len(features) != 1 else features[0], reasons

    @cached_property
    def encoder_model(self) -> Any:
        """The encoder, built when it is first used; raises as `encode` does."""
        self.encoder = checked_encoder(self.encoder)
        precision = self.encoder.get("precision", "float32")
        if precision == "mixed_float16" and not has_accelerator():
            precision = "float32"  # processors take up to 30 times as long in float16
        return self._built(precision)

    def _built(self, precision: str) -> Any:
        options = self.encoder["requested"] | {"with_grid": "grid" in self.encoder}
        return build_encoder(self.encoder["name"], precision=precision, **options)

    def caption_features(self, features: Any, search: Search | None = None) -> list[Caption]:
        """Caption images by their features."""
        search = search or self.search
        if search.neighbours:
            return [captions[0] for captions in self.best_captions(features, 1, search)]
        rows = self._decode(features, search)
        return [Caption(self.tokenizer.decode(tokens), float(log_p)) for tokens, log_p in rows]

    def best_captions(
        self, features: Any, count: int = 3, search: Search | None = None
    ) -> list[list[Caption]]:
        """Return up to `count` captions per image, the best first, of at least as many beams.

        With `neighbours`, images whose candidates all have a flaw, see `Coherence`, are searched
        again with `WIDER` times the beams; not if more than a quarter of many images have, as
        then the decoder is hardly trained.
        """
        at_least(1, count=count)
        if not len(arrays_of(features)[0]):
            return []
        search = search or self.search
        beams = max(count, search.beams)
        best = self._found(features, count, replace(search, beams=beams))
        again = [
            i for i, captions in enumerate(best) if search.neighbours and self._flawed(captions)
        ]
        if 0 < len(again) <= max(BATCH, len(best) // 4):
            rows = tuple(
                array.take(np.array(again)) if isinstance(array, LazyRows) else array[again]
                for array in arrays_of(features)
            )
            wider = self._found(rows, count, replace(search, beams=WIDER * beams))
            for i, captions in zip(again, wider, strict=True):
                if not self._flawed(captions):
                    best[i] = captions
        return best

    def _found(self, features: Any, count: int, search: Search) -> list[list[Caption]]:
        return self.ranked(self.candidates(features, search), count, search)

    def _has_flaw(self, text: str) -> bool:
        return self.coherence is not None and any(self.coherence.flaws(text))

    def _flawed(self, captions: list[Caption]) -> bool:
        """Return whether even the best of an image's captions has a flaw, see `Coherence`."""
        return self._has_flaw(captions[0].text if captions else "")

    def ranked(self, candidates: Candidates, count: int, search: Search) -> list[list[Caption]]:
        """Return the best of an image's candidates, see `best_captions`."""
        ranks = np.broadcast_to(np.arange(candidates.log_p.shape[1]), candidates.log_p.shape)
        if search.neighbours:
            ranks = candidates.ranked(search.word_bonus)
        best = []
        for tokens, log_p, order in zip(candidates.tokens, candidates.log_p, ranks, strict=True):
            sound, flawed = list[Caption](), list[Caption]()
            for k in order[possible(log_p[order])]:
                caption = Caption(self.tokenizer.decode(tokens[k]), float(log_p[k]))
                bad = search.neighbours and self._has_flaw(caption.text)
                (flawed if bad else sound).append(caption)
                if len(sound) == count:
                    break
            best.append((sound + flawed)[:count])
        return best

    def candidates(self, features: Any, search: Search) -> Candidates:
        """Return all captions that the beams find; without `neighbours` their agreement is 0."""
        if search.neighbours and self.consensus is None:
            raise UserError(
                "Reranking needs training images: give the captioner consensus=Consensus.fit(...), "
                "or search with neighbours=0."
            )
        rows = self._decode(features, search, all_beams=True)
        tokens, log_p = map(np.stack, zip(*rows, strict=True))
        agreement = np.zeros_like(log_p)
        if search.neighbours and self.consensus is not None:
            vectors = image_vectors(self.decoder, features)
            agreement = self.consensus.agreement(vectors, tokens, search.neighbours)
        return Candidates(tokens, log_p, agreement)

    def _decode(
        self, features: Any, search: Search, all_beams: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each image's tokens and log-probability, or with `all_beams` those of all beams."""
        self.refuse_retrained()
        # penalties and reranking leave the compiled search as it is
        key = replace(search, end_penalty=0.0, neighbours=0, word_bonus=0.0), all_beams
        if key not in self._searches:
            self._searches[key] = compiled(self._search_function(*key))
        count = _images_at_once(search.beams, self.tokenizer.vocab_size)
        penalty, arrays = np.asarray(search.end_penalty, np.float32), arrays_of(features)
        starts: Any = range(0, len(arrays[0]), count)
        if len(starts) > 1:
            starts = progress_bar(starts, desc="captions", leave=False, delay=BAR_SECONDS)
        for start in starts:
            n = np.asarray(min(count, len(arrays[0]) - start), np.int32)
            with memory_for(f"captioning {count} images at once", "Or lower BEAMS."):
                block = tuple(np.zeros((count, *a.shape[1:]), np.float32) for a in arrays)
                for padded, array in zip(block, arrays, strict=True):
                    padded[:n] = array[start : start + count]
                tokens, log_p = map(np.asarray, self._searches[key](block, n, penalty))
            yield from zip(tokens[:n], log_p[:n], strict=True)

    def _search_function(self, search: Search, all_beams: bool) -> Callable:
        def decode(features: Any, n: Any, end_penalty: Any) -> tuple[Any, Any]:
            if NARROWS:
                features = tuple(array[:n] for array in features)
            start = self.decoder.start(features)
            sizes = {"n": n, "max_words": self.tokenizer.max_words + 1}  # and an end
            if search.beams == 1 and not search.no_repeat and not all_beams:
                return greedy_search(*start, **sizes)
            options = sizes | {"search": replace(search, end_penalty=end_penalty)}
            options["measures"] = self.tokenizer.measures
            if not all_beams:
                return beam_search(*start, **options)
            return beam_candidates(*start, **options, needed=search.beams)

        return decode


def _images_at_once(beams: int, vocab_size: int) -> int:
    count = ROWS * FEW_BEAMS // max(beams, FEW_BEAMS)
    words = -(-vocab_size // WORD_BLOCK) * WORD_BLOCK  # as `padded` makes them
    return max(1, min(count, LOGITS // (beams * words)) if on_tensorflow_cpu() else count)
