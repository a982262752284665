"""Consensus: of a search's captions, the one most like those of the nearest training images."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from roco_caption.batches import arrays_of
from roco_caption.ensemble import Ensemble, members_of
from roco_caption.feature_table import sampled, to_float16
from roco_caption.files import UserError, first_line
from roco_caption.model import BLOCK, Captioning
from roco_caption.nearest import neighbours
from roco_caption.ngrams import Ngrams, NgramVectors, similarities
from roco_caption.sealed import read_pickle, write_pickle
from roco_caption.text import END

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
    reranking: Mao, Xu, Yang, Wang, Huang, Yuille 2015, "Deep Captioning with Multimodal Recurrent
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
    def fit(cls, captioning: Captioning | Ensemble, features: Any, tokens: np.ndarray) -> Consensus:
        """Make it of a trained decoder.

        Args:
            captioning: the decoder or decoders.
            features: of the training images, as `Captioning.start` takes them.
            tokens: their captions, int32 (n, t).
        """
        rows = np.arange(len(tokens))[sampled(len(tokens), KEPT)]
        vectors = described(captioning, features, rows)
        mean = vectors.mean(axis=0)
        tokens = np.asarray(tokens[rows], np.int32)
        return cls(to_float16(vectors - mean), mean, tokens, fingerprint(captioning))

    def agreement(self, vectors: np.ndarray, tokens: np.ndarray, count: int) -> np.ndarray:
        """Return how like the captions of the nearest training images captions are.

        Args:
            vectors: of `described`, float32 (n, d).
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
        """Write it to a pickle, whole or not at all."""
        value = {name: getattr(self, name) for name in ("vectors", "mean", "tokens", "decoder")}
        write_pickle(path, value, size=self.vectors.nbytes + self.tokens.nbytes)

    @classmethod
    def load(cls, path: str | os.PathLike, captioning: Captioning | Ensemble) -> Consensus:
        """Read what `save` wrote.

        Args:
            path: the file.
            captioning: the decoder or decoders that it was made of.

        Raises:
            UserError: the file is missing, damaged, of another decoder, or holds something else.
        """
        value = read_pickle(path)
        try:
            vectors, mean, tokens = (value[name] for name in ("vectors", "mean", "tokens"))
            if vectors.shape != (len(tokens), len(mean)) or tokens.ndim != 2 or not len(tokens):
                raise ValueError("its arrays do not fit together")
            if value["decoder"] != fingerprint(captioning):
                raise ValueError("they were made by another training's decoder")
        except Exception as error:  # whatever another pickle holds
            raise UserError(
                f"{path} holds no training images to compare with ({first_line(error)}). Run the "
                "notebook's captioning cell again, which writes it anew."
            ) from error
        return cls(vectors, mean, tokens, value["decoder"])


def fingerprint(captioning: Captioning | Ensemble) -> str:
    """Return a SHA-256 of the weights that make a decoder's vectors of images, in hexadecimal."""
    digest = hashlib.sha256()
    for member in members_of(captioning):
        for array in member.next_word.get_layer("image").get_weights():
            digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


def described(
    captioning: Captioning | Ensemble, features: Any, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the decoder's own vectors of images, an ensemble's side by side, float32 (n, d).

    Args:
        captioning: the decoder or decoders.
        features: of the images, as `Captioning.start` takes them.
        rows: which of them; all when None.
    """
    arrays = arrays_of(features)
    rows = np.arange(len(arrays[0])) if rows is None else rows
    blocks = []
    for start in range(0, len(rows), BLOCK):
        part = tuple(np.asarray(a[rows[start : start + BLOCK]], np.float32) for a in arrays)
        vectors = [np.asarray(member.vector(part)) for member in members_of(captioning)]
        blocks.append(np.concatenate(vectors, axis=1))
    return np.concatenate(blocks)


def _words_of(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the captions' words one after the other, whose each is, and how many captions."""
    rows, columns = np.nonzero(tokens > END)
    return tokens[rows, columns], rows, len(tokens)
