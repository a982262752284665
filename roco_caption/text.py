"""Captions to words to numbers and back: cleaning that keeps what radiology needs."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from roco_caption.files import UserError, read_json, write_json

PAD, START, END, UNKNOWN = range(4)
MOST_WORDS = 100_000  # of a caption; more would be memory for nothing
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")

# A number with its decimals and letters ("1.6", "3d"), a word with its digits ("t2", "l3"), or a
# sign that changes the meaning of a number.
_WORD = re.compile(r"\d+(?:[.,]\d+)*[^\W_]*|[^\W\d_][^\W_]*|[%°±<>]")
_UNIT = re.compile(r"(?<=\d)(mm|cm|ml|cc|mg|kg|hu)\b")


def clean(caption: str) -> list[str]:
    """Split a caption into lower-case words, keeping numbers, levels, sides and negations.

    Unicode is normalised (NFKC: `µ`, full-width letters and superscripts become plain ones),
    units come off their number (`5mm` → `5 mm`), hyphens and other punctuation separate words.

    Args:
        caption: any text, newlines and quotes included.

    Returns:
        The words in order: `"T2-weighted, 5mm"` → `["t2", "weighted", "5", "mm"]`.
    """
    text = unicodedata.normalize("NFKC", caption).lower()
    return _WORD.findall(_UNIT.sub(r" \1", text))


class CaptionTokenizer:
    """Maps cleaned captions to rows of token numbers and back.

    A plain dictionary rather than Keras' TextVectorization: that layer keeps its strings inside
    TensorFlow, so neither a readable file nor another backend could hold the vocabulary.

    Attributes:
        words: the vocabulary in the order of its numbers; the first four are
            `<pad>` 0, `<start>` 1, `<end>` 2, `<unk>` 3.
        max_words: words kept of a caption.
    """

    def __init__(self, words: Sequence[str], max_words: int) -> None:
        fits = tuple(words[:4]) == SPECIAL and len(set(words)) == len(words)
        if not fits or not 1 <= max_words <= MOST_WORDS:
            raise UserError(
                "This is no caption vocabulary: make the tokenizer again from captions."
            )
        self.words = list(words)
        self.max_words = max_words
        self._number = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def fit(
        cls, captions: Iterable[str], *, min_frequency: int = 3, max_words: int = 50
    ) -> CaptionTokenizer:
        """Collect the vocabulary of the training captions.

        Args:
            captions: training captions, uncleaned.
            min_frequency: rarer words become `<unk>`.
            max_words: words kept of a caption.

        Raises:
            UserError: no word is that frequent.
        """
        counts = Counter(word for caption in captions for word in clean(caption))
        # by frequency, then alphabet, so that the numbers do not depend on the captions' order
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_frequency]
        if not words:
            raise UserError(
                f"No word occurs {min_frequency} times in the training captions. Lower "
                "MIN_FREQUENCY, or check that the captions were read."
            )
        return cls([*SPECIAL, *words], max_words)

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
            numbers = [START, *(self._number.get(word, UNKNOWN) for word in clean(caption)), END]
            if len(numbers) > self.length:
                numbers = numbers[: self.length - 1]
            row[: len(numbers)] = numbers
        return tokens

    def decode(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Return the words of one row up to `<end>`, without the special tokens."""
        words = []
        for token in tokens:
            if token == END:
                break
            if token > UNKNOWN:
                words.append(self.words[token])
        return " ".join(words)

    def save(self, path: str | os.PathLike) -> None:
        """Write the vocabulary as JSON."""
        write_json(path, {"max_words": self.max_words, "words": self.words}, sealed=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> CaptionTokenizer:
        """Read a vocabulary that `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or no vocabulary.
        """
        value = read_json(path)
        try:
            words, max_words = value["words"], value["max_words"]
            if not all(isinstance(word, str) for word in words) or not isinstance(max_words, int):
                raise TypeError("words must be texts, max_words a whole number")
            return cls(words, max_words)
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"{path} holds no caption vocabulary ({error}).") from error
