"""Captions to token numbers and back."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from roco_caption.core.errors import UserError, at_least
from roco_caption.core.files import read_json, write_json
from roco_caption.text import words as spelling

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
TIMES = {"×", "x", "*", "by"}
MANY_TRUNCATED = 0.15  # share of the captions
MOST_WORDS = 100_000  # upper bound, guards against corrupt files


@dataclass(eq=False)
class CaptionTokenizer:
    """Maps captions to rows of token numbers and back, for every backend of Keras."""

    words: Sequence[str]  # the vocabulary in the order of its numbers, beginning with `SPECIAL`
    max_words: int  # longer captions are truncated
    written: Mapping[str, str] = field(default_factory=dict)  # see `words.usual_forms`
    joints: Mapping[str, str] = field(default_factory=dict)  # see `words.usual_joints`
    as_sentences: bool = False  # captions begin with a capital and end with a full stop

    def __post_init__(self) -> None:
        self._number = {word: i for i, word in enumerate(self.words)}
        if tuple(self.words[:4]) != SPECIAL or len(self._number) < len(self.words):
            raise UserError(f"a vocabulary begins with {' '.join(SPECIAL)} and has no duplicates")
        at_least(1, max_words=self.max_words)
        if self.max_words > MOST_WORDS:
            raise UserError(f"MAX_WORDS must be at most {MOST_WORDS:,}, got {self.max_words!r}.")

    @classmethod
    def fit(
        cls, captions: Iterable[str], *, min_frequency: int = 3, max_words: int = 50
    ) -> CaptionTokenizer:
        """Collect the vocabulary of the training captions, and how they write its words.

        Words rarer than `min_frequency` become `<unk>`; if all are, a UserError says so.
        """
        captions = list(captions)
        named = [spelling.token_names(caption) for caption in captions]
        counts = Counter(itertools.chain.from_iterable(named))
        truncated = sum(len(names) > max_words for names in named) / max(len(named), 1)
        if truncated > MANY_TRUNCATED:
            print(f"NOTE: {truncated:.0%} of the training captions have more than MAX_WORDS = "
                  f"{max_words} words and lose their ends. Raise it, or choose a column of shorter "
                  "texts (COLUMNS = 'caption=…').")  # fmt: skip
        # by frequency, then alphabet, so that the numbers do not depend on the captions' order
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ranked if count >= min_frequency]
        if not words:
            raise UserError(
                f"No word occurs {min_frequency} times in the training captions. Lower "
                "MIN_FREQUENCY, or check that the captions were read, with spaces between words."
            )
        known = set(words)
        writing = spelling.usual_forms(captions, known), spelling.usual_joints(captions, known)
        sentences = sum(map(spelling.is_sentence, captions))
        return cls([*SPECIAL, *words], max_words, *writing, 2 * sentences > len(captions))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the four special ones included."""
        return len(self.words)

    @property
    def length(self) -> int:
        """Columns of an encoded caption: start, `max_words`, end."""
        return self.max_words + 2

    @property
    def measures(self) -> np.ndarray:
        """Which tokens are numbers, and which join them as "×": int32 0 or 1 (2, vocab_size)."""
        plain = [word.strip(spelling.JOINER) for word in self.words]
        numbers = [word.lstrip(".")[:1].isnumeric() for word in plain]
        return np.array([numbers, [word in TIMES for word in plain]], np.int32)

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Return token numbers, int32 (n, max_words + 2): `<start>`, words, `<end>`, padding.

        A truncated caption gets no `<end>`, so that the model does not learn to stop early.
        """
        tokens = np.full((len(captions), self.length), PAD, np.int32)
        for row, caption in zip(tokens, captions, strict=True):
            known, names = self._number, spelling.token_names(caption)
            # a sign that was never seen adjoining is taken as one apart
            numbers = [known.get(n, known.get(n.strip(spelling.JOINER), UNKNOWN)) for n in names]
            ending = [END] if len(numbers) <= self.max_words else []
            numbers = [START, *numbers[: self.max_words], *ending]
            row[: len(numbers)] = numbers
        return tokens

    def decode(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Return one row up to `<end>` as text, written as the training captions are.

        Special tokens are left out. Without `<end>` there is no final full stop.
        """
        row = takewhile(lambda token: token != END, tokens)
        words = [self.words[token] for token in row if token > UNKNOWN]
        text = spelling.join_words(words, self.written, self.joints, self.as_sentences)
        return f"{text}." if text and END in tokens and self.as_sentences else text

    def save(self, path: str | os.PathLike) -> None:
        """Write the vocabulary as JSON."""
        names = ("max_words", "words", "written", "joints", "as_sentences")
        write_json(path, {name: getattr(self, name) for name in names}, sealed=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> CaptionTokenizer:
        """Read a vocabulary that `save` wrote; a file that is not one raises a UserError."""
        value = read_json(path)
        try:
            words, max_words = value["words"], value["max_words"]
            written, joints = value.get("written", {}), value.get("joints", {})  # not in old files
            texts = [*words, *written, *written.values(), *joints, *joints.values()]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("words must be strings")
            return cls(words, max_words, written, joints, value.get("as_sentences") is True)
        except (KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(
                f"{path} is not a caption vocabulary ({error}). Restore it, or fit it again."
            ) from error
