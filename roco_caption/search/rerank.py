"""Reranks candidates by the nearest training images' captions, and matches captions' length."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import atomic_open
from roco_caption.decoder.model import IMAGE_BLOCK, Decoder, Ensemble
from roco_caption.features.table import arrays_of, sampled, to_float16
from roco_caption.scores.baselines import neighbours
from roco_caption.search.beam import Search
from roco_caption.text.ngrams import Ngrams, similarities
from roco_caption.text.tokenizer import END

if TYPE_CHECKING:
    from roco_caption.search.captioner import Captioner

MAX_IMAGES = 100_000  # training images that a consensus keeps: for each a vector and a caption
AGREEMENT = 20.0  # weight of agreement, in nats per word
TWINS = 6  # images looked up per caption needed, since images of one case share a caption
LENGTH_IMAGES = 512  # images whose mean caption length is matched
LENGTH_BEAMS = 3  # beam width that shows by how much captions are too short
MAX_PENALTY = 4.0  # largest end penalty tried, in nats
SEARCH_SHARE = 0.75  # share of the end penalty left to the search when candidates are reranked


@dataclass(frozen=True)
class Candidates:
    """Captions found for `n` images, `b` per image."""

    tokens: np.ndarray  # int32 (n, b, max_words), end and padding included
    log_p: np.ndarray  # in nats, float32 (n, b)
    agreement: np.ndarray  # with the captions of the nearest images, 0 to 1, float32 (n, b)

    @cached_property
    def words(self) -> np.ndarray:
        """Words per caption, int64 (n, b)."""
        return (self.tokens > END).sum(axis=-1)

    def ranked(self, word_bonus: float = 0.0) -> np.ndarray:
        """Return the indices of each image's captions, the best first, int64 (n, b).

        `word_bonus` is added to a score per word, in nats.
        """
        per_word = self.log_p / (self.words + 1)
        score = per_word + AGREEMENT * self.agreement + word_bonus * self.words
        return np.argsort(-score, axis=1, kind="stable")


@dataclass(eq=False, repr=False)
class Consensus:
    """The training images, by which candidates are reranked.

    Candidates differ little in probability and much in meaning; the best is most similar to the
    captions of the nearest training images (Mao et al. 2015, arXiv:1412.6632, section 8).
    """

    vectors: np.ndarray  # `image_vectors` less their mean, float16 (n, d)
    mean: np.ndarray  # float32 (d,)
    tokens: np.ndarray  # the captions, int32 (n, t)
    decoder: str = ""  # its `fingerprint`
    rows: np.ndarray | None = None  # these images' rows in the training split; not saved

    def __post_init__(self) -> None:
        captions, caption_of = np.unique(self.tokens, axis=0, return_inverse=True)
        self._caption_of = caption_of.reshape(-1)
        words = _words_of(captions)
        self._ngrams = Ngrams(*words)
        self._captions = self._ngrams.vectors(*words)

    @classmethod
    def fit(
        cls, decoder: Decoder | Ensemble, features: Any, tokens: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> Consensus:  # fmt: skip
        """Build the consensus of a trained decoder; features are those of `Decoder.start`.

        `rows`, int (k,), are the images' first ones where an image has several captions: else its
        captions alone would be the nearest.
        """
        rows = np.arange(len(tokens)) if rows is None else rows
        rows = rows[sampled(len(rows), MAX_IMAGES)]
        vectors = image_vectors(decoder, features, rows)
        mean = vectors.mean(axis=0)
        tokens = np.asarray(tokens[rows], np.int32)
        return cls(to_float16(vectors - mean), mean, tokens, fingerprint(decoder), rows)

    def nearest(self, vectors: np.ndarray, k: int) -> np.ndarray:
        """Return the k nearest images to each of `image_vectors`, nearest first, int64 (n, k)."""
        return neighbours(self.vectors, vectors - self.mean, k)

    def agreement(self, vectors: np.ndarray, tokens: np.ndarray, count: int) -> np.ndarray:
        """Return candidates' mean similarity to `count` captions of the nearest training images.

        Vectors are float32 (n, d), candidates int32 (n, b, max_words), similarities float32 (n, b).
        """
        n, b = tokens.shape[:2]
        candidates = self._ngrams.vectors(*_words_of(tokens.reshape(n * b, -1)))
        nearest = self.nearest(vectors, TWINS * count)
        agreement = np.empty((n, b), np.float32)
        for i, repeated in enumerate(self._caption_of[nearest]):
            captions = np.array(list(dict.fromkeys(repeated))[:count])
            rows = np.arange(i * b, (i + 1) * b)
            agreement[i] = similarities(candidates, rows, self._captions, captions).mean(axis=1)
        return agreement

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz atomically."""
        with atomic_open(path, size=self.vectors.nbytes + self.tokens.nbytes) as file:
            arrays = {"vectors": self.vectors, "mean": self.mean, "tokens": self.tokens}
            np.savez(file, decoder=np.array(self.decoder), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike, decoder: Decoder | Ensemble) -> Consensus:
        """Read what `save` wrote; UserError if it is damaged (by its CRC-32) or does not match."""
        try:
            with np.load(path, allow_pickle=False) as file:
                vectors, mean, tokens = file["vectors"], file["mean"], file["tokens"]
                fitted_with = str(file["decoder"])
            if vectors.shape != (len(tokens), len(mean)) or tokens.ndim != 2 or not len(tokens):
                raise ValueError("its arrays do not match")
            if fitted_with != fingerprint(decoder):
                raise ValueError("it belongs to another decoder")
        except Exception as error:  # a damaged zip can raise nearly anything
            raise UserError(
                f"{path} could not be read ({first_line(error)}). Run the notebook's captioning "
                "cell again to write it again."
            ) from error
        return cls(vectors, mean, tokens, fitted_with)


def fingerprint(decoder: Decoder | Ensemble) -> str:
    """Return the SHA-256 of the weights that map images to their vectors, in hexadecimal."""
    digest = hashlib.sha256()
    for member in decoder.members:
        for array in member.parts["image"].get_weights():
            digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


def image_vectors(
    decoder: Decoder | Ensemble, features: Any, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return `decoder.vector` of images, or of those at `rows`, block by block, float32 (n, d)."""
    arrays = arrays_of(features)
    rows = np.arange(len(arrays[0])) if rows is None else rows
    vectors = []
    for start in range(0, len(rows), IMAGE_BLOCK):
        block = tuple(np.asarray(a[rows[start : start + IMAGE_BLOCK]], np.float32) for a in arrays)
        vectors.append(np.asarray(decoder.vector(block)))
    return np.concatenate(vectors)


def _words_of(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return all captions' words as one array, the caption of each, and the number of captions."""
    rows, columns = np.nonzero(tokens > END)
    return tokens[rows, columns], rows, len(tokens)


def match_length(captioner: Captioner, features: Any, tokens: np.ndarray) -> Search:
    """Return the captioner's search with an end penalty that makes captions as long as references.

    With neighbours, a word bonus takes a part of it, so that candidates differ in length. Features
    and tokens, int32 (n, length), are those of the validation split.
    """
    rows = sampled(len(tokens), LENGTH_IMAGES)
    images = tuple(array[rows] for array in arrays_of(features))
    target = _mean_words(tokens[rows])
    search = captioner.search
    probe = replace(search, neighbours=0, beams=min(search.beams, LENGTH_BEAMS))

    def surplus_of_penalty(penalty: float) -> float:
        captions = captioner.caption_features(images, replace(probe, end_penalty=penalty))
        return _words_in(captioner, captions) - target

    penalty = _bisected(surplus_of_penalty, MAX_PENALTY, steps=5)
    if not search.neighbours:
        return replace(search, end_penalty=penalty)
    search = replace(search, end_penalty=SEARCH_SHARE * penalty)
    candidates = captioner.candidates(images, search)

    def surplus_of_bonus(bonus: float) -> float:
        best = captioner.ranked(candidates, 1, replace(search, word_bonus=bonus))
        return _words_in(captioner, [captions[0] for captions in best]) - target

    return replace(search, word_bonus=_bisected(surplus_of_bonus, 1.0, steps=9))


def _words_in(captioner: Captioner, captions: Sequence[Any]) -> float:
    return _mean_words(captioner.tokenizer.encode([caption.text for caption in captions]))


def _mean_words(tokens: np.ndarray) -> float:
    return float((tokens > END).sum(axis=1).mean())


def _bisected(surplus: Callable[[float], float], high: float, steps: int) -> float:
    """Return where a rising function on [0, high] is nearest to zero, of the points tried."""
    low, values = 0.0, {0.0: surplus(0.0)}
    for _ in range(steps if values[0.0] < 0 else 0):
        middle = (low + high) / 2
        values[middle] = surplus(middle)
        low, high = (middle, high) if values[middle] < 0 else (low, middle)
    return min(values, key=lambda point: abs(values[point]))
