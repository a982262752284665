"""Consensus: of a search's captions, the one most like those of the nearest training images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import atomic_open
from roco_caption.decoder.model import BLOCK, Decoder, Ensemble
from roco_caption.features.table import arrays_of, sampled, to_float16
from roco_caption.scores.baselines import neighbours
from roco_caption.search.beam import Search
from roco_caption.text.ngrams import Ngrams, NgramVectors, similarities
from roco_caption.text.tokenizer import END

if TYPE_CHECKING:
    from roco_caption.search.captioner import Captioner

KEPT = 100_000  # training images that are asked at most: 256 numbers and a caption of each
AGREEMENT = 20.0  # a caption wholly like all of them is worth so many nats a word
TWINS = 6  # times as many images are looked at as captions are wanted: images of a case share one


@dataclass(frozen=True)
class Candidates:
    """Captions that a search found for `n` images, `b` for each.

    Attributes:
        tokens: int32 (n, b, max_words), end and padding included.
        log_p: their log-probabilities, in nats, float32 (n, b).
        agreement: 0 to 1, how like the captions of the nearest training images, float32 (n, b).
    """

    tokens: np.ndarray
    log_p: np.ndarray
    agreement: np.ndarray

    @cached_property
    def words(self) -> np.ndarray:
        """How many words each has, int64 (n, b)."""
        return (self.tokens > END).sum(axis=-1)

    def ranked(self, word_bonus: float = 0.0) -> np.ndarray:
        """Return each image's captions' places, the best first, int64 (n, b).

        Those that were cut off, in the middle of a sentence, come last.

        Args:
            word_bonus: nats a word by which each further word makes a caption better.
        """
        score = self.log_p / (self.words + 1) + AGREEMENT * self.agreement
        score = score + word_bonus * self.words
        cut_off = (self.tokens != END).all(axis=-1)
        return np.lexsort((-score, cut_off), axis=1)


class Consensus:
    """The training images as those to be captioned are compared with them.

    A decoder's beams differ little in probability and much in what they say. Among them the one
    is taken that the captions of the nearest training images agree with most (consensus
    reranking: Mao, Xu, Yang, Wang, Huang, Yuille 2015, "Deep Decoder with Multimodal Recurrent
    Neural Networks (m-RNN)", arXiv:1412.6632, section 8). Near is what the decoder holds for near:
    its own vectors of the images, those that it adds to the LSTM's output, less their mean.

    Args:
        vectors: of the training images, float16 (n, d), mean 0.
        mean: what was taken off, float32 (d,).
        tokens: their captions, int32 (n, t).
        decoder: `fingerprint` of what made the vectors.
    """

    def __init__(
        self, vectors: np.ndarray, mean: np.ndarray, tokens: np.ndarray, decoder: str = ""
    ) -> None:
        self.vectors, self.mean, self.tokens, self.decoder = vectors, mean, tokens, decoder
        captions, self._caption_of = np.unique(tokens, axis=0, return_inverse=True)
        self._caption_of = self._caption_of.reshape(-1)
        said = _words_of(captions)
        self._ngrams = Ngrams(*said)
        self._captions = self._ngrams.vectors(*said)

    @classmethod
    def fit(cls, decoder: Decoder | Ensemble, features: Any, tokens: np.ndarray) -> Consensus:
        """Make it of a trained decoder.

        Args:
            decoder: the decoder or decoders.
            features: of the training images, as `Decoder.start` takes them.
            tokens: their captions, int32 (n, t).
        """
        rows = np.arange(len(tokens))[sampled(len(tokens), KEPT)]
        vectors = image_vectors(decoder, features, rows)
        mean = vectors.mean(axis=0)
        tokens = np.asarray(tokens[rows], np.int32)
        return cls(to_float16(vectors - mean), mean, tokens, fingerprint(decoder))

    def agreement(self, vectors: np.ndarray, tokens: np.ndarray, count: int) -> np.ndarray:
        """Return how like the captions of the nearest training images captions are.

        Args:
            vectors: of `image_vectors`, float32 (n, d).
            tokens: captions found for these images, int32 (n, b, max_words).
            count: different captions of the nearest images to compare each with.

        Returns:
            float32 (n, b), the mean similarity (`ngrams.similarities`).
        """
        n, b = tokens.shape[:2]
        found: NgramVectors = self._ngrams.vectors(*_words_of(tokens.reshape(n * b, -1)))
        nearest = neighbours(self.vectors, vectors - self.mean, TWINS * count)
        result = np.empty((n, b), np.float32)
        for i, images in enumerate(self._caption_of[nearest]):
            captions = np.array(list(dict.fromkeys(images))[:count])
            mine = np.arange(i * b, (i + 1) * b)
            result[i] = similarities(found, mine, self._captions, captions).mean(axis=1)
        return result

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz, whole or not at all."""
        arrays = {"vectors": self.vectors, "mean": self.mean, "tokens": self.tokens}
        with atomic_open(path, size=self.vectors.nbytes + self.tokens.nbytes) as file:
            np.savez(file, decoder=np.array(self.decoder), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike, decoder: Decoder | Ensemble) -> Consensus:
        """Read what `save` wrote; zip's CRC-32 guards each array.

        Args:
            path: the file.
            decoder: the decoder or ensemble that made it.

        Raises:
            UserError: the file is missing, damaged, of another decoder, or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                vectors, mean, tokens = (file[name] for name in ("vectors", "mean", "tokens"))
                made_by = str(file["decoder"])
            if vectors.shape != (len(tokens), len(mean)) or tokens.ndim != 2 or not len(tokens):
                raise ValueError("its arrays do not fit together")
            if made_by != fingerprint(decoder):
                raise ValueError("it was made with another decoder")
        except Exception as error:  # a damaged zip can raise nearly anything
            raise UserError(
                f"{path} could not be read ({first_line(error)}). Run the notebook's captioning "
                "cell again, which writes it again."
            ) from error
        return cls(vectors, mean, tokens, made_by)


def fingerprint(decoder: Decoder | Ensemble) -> str:
    """Return a SHA-256 of the weights that map images to their vectors, in hexadecimal."""
    digest = hashlib.sha256()
    for member in decoder.members:
        for array in member.parts["image"].get_weights():
            digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


def image_vectors(
    decoder: Decoder | Ensemble, features: Any, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the decoder's own vectors of images, an ensemble's side by side, float32 (n, d).

    Args:
        decoder: the decoder or ensemble.
        features: of the images, as `Decoder.start` takes them.
        rows: which of them; all when None.
    """
    arrays = arrays_of(features)
    rows = np.arange(len(arrays[0])) if rows is None else rows
    blocks = []
    for start in range(0, len(rows), BLOCK):
        part = tuple(np.asarray(a[rows[start : start + BLOCK]], np.float32) for a in arrays)
        blocks.append(np.asarray(decoder.vector(part)))
    return np.concatenate(blocks)


def _words_of(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the captions' words one after the other, whose each is, and how many captions."""
    rows, columns = np.nonzero(tokens > END)
    return tokens[rows, columns], rows, len(tokens)


SAMPLE = 512  # images are enough to know a mean length by
FEW = 3  # beams are enough to know how much shorter than wanted captions are
SHARE = 0.75  # of the penalty, where neighbours choose among what is found


def match_length(
    captioner: Captioner,
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
