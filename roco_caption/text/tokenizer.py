"""Captions to the numbers of their words, and back to captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_json
from roco_caption.text.words import clean, usually_between, usually_written, written_out

PAD, START, END, UNKNOWN = range(4)
MOST_WORDS = 100_000  # of a caption; more would be memory for nothing
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")


class CaptionTokenizer:
    """Maps cleaned captions to rows of token numbers and back.

    A plain dictionary rather than Keras' TextVectorization: that layer keeps its strings inside
    TensorFlow, so neither a readable file nor another backend could hold the vocabulary.

    Attributes:
        words: the vocabulary in the order of its numbers; the first four are
            `<pad>` 0, `<start>` 1, `<end>` 2, `<unk>` 3.
        max_words: words kept of a caption.
        written: words that are written with capitals: `{"ct": "CT"}`.
        joints: what is written between two words but a space, after the last one, and between
            any word and one that begins a sentence, in this order:
            `{"t2 weighted": "-", "mass arrow": " (", "arrow ": ")", " there": ". "}`.
        as_sentences: whether captions begin with a capital and end with a full stop.
    """

    def __init__(
        self,
        words: Sequence[str],
        max_words: int,
        written: Mapping[str, str] | None = None,
        joints: Mapping[str, str] | None = None,
        as_sentences: bool = False,
    ) -> None:
        fits = tuple(words[:4]) == SPECIAL and len(set(words)) == len(words)
        if not fits or not 1 <= max_words <= MOST_WORDS:
            raise UserError(
                "This is no caption vocabulary: make the tokenizer again from captions."
            )
        self.words = list(words)
        self.max_words, self.as_sentences = max_words, as_sentences
        self.written, self.joints = dict(written or {}), dict(joints or {})
        self._number = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def fit(
        cls, captions: Iterable[str], *, min_frequency: int = 3, max_words: int = 50
    ) -> CaptionTokenizer:
        """Collect the vocabulary of the training captions, and how they write its words.

        Args:
            captions: training captions, uncleaned.
            min_frequency: rarer words become `<unk>`.
            max_words: words kept of a caption.

        Raises:
            UserError: no word is that frequent.
        """
        captions = list(captions)
        counts = Counter(word for caption in captions for word in clean(caption))
        # by frequency, then alphabet, so that the numbers do not depend on the captions' order
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_frequency]
        if not words:
            raise UserError(
                f"No word occurs {min_frequency} times in the training captions. Lower "
                "MIN_FREQUENCY, or check that the captions were read."
            )
        known, usual = set(words), usually_written(captions)
        written = {word: form for word, form in sorted(usual.items()) if word in known}
        between = sorted(usually_between(captions).items())
        joints = {pair: joint for pair, joint in between if known.issuperset(pair.split())}
        capitals = sum(caption.lstrip()[:1].isupper() for caption in captions)
        style = written, joints, 2 * capitals > len(captions)
        return cls([*SPECIAL, *words], max_words, *style)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the four special ones included."""
        return len(self.words)

    @property
    def length(self) -> int:
        """Columns of an encoded caption: start, `max_words`, end."""
        return self.max_words + 2

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Return token numbers: `<start>`, the words, `<end>`, padded on the right.

        A caption cut off at `max_words` gets no `<end>`, so that the model does not learn to
        stop in the middle of a sentence.

        Args:
            captions: `n` captions, uncleaned.

        Returns:
            int32 (n, max_words + 2).
        """
        tokens = np.zeros((len(captions), self.length), np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            words = clean(caption)
            numbers = [START, *(self._number.get(word, UNKNOWN) for word in words), END]
            if len(numbers) > self.length:
                numbers = numbers[: self.length - 1]
            row[: len(numbers)] = numbers
        return tokens

    def decode(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Return one row up to `<end>` as text, written as the training captions are.

        Args:
            tokens: a caption's row without `<start>`; special tokens are left out.

        Returns:
            `"Axial CT of the neck. No mass."`; without full stop at the end where there is no
            `<end>`.
        """
        words = []
        ended = False
        for token in tokens:
            if token == END:
                ended = True
                break
            if token > UNKNOWN:
                words.append(self.words[token])
        text = written_out(words, self.written, self.joints, self.as_sentences)
        return f"{text}." if text and ended and self.as_sentences else text

    def save(self, path: str | os.PathLike) -> None:
        """Write the vocabulary as JSON."""
        value = {"max_words": self.max_words, "words": self.words}
        value |= {"written": self.written, "joints": self.joints}
        value |= {"as_sentences": self.as_sentences}
        write_json(path, value, sealed=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> CaptionTokenizer:
        """Read a vocabulary that `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or no vocabulary.
        """
        value = read_json(path)
        try:
            words, max_words = value["words"], value["max_words"]
            # files of before have no more
            written, joints = value.get("written", {}), value.get("joints", {})
            texts = [*words, *written, *written.values(), *joints, *joints.values()]
            if not all(isinstance(text, str) for text in texts) or not isinstance(max_words, int):
                raise TypeError("words must be texts, max_words a whole number")
            return cls(words, max_words, written, joints, value.get("as_sentences") is True)
        except (KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{path} holds no caption vocabulary ({error}).") from error
