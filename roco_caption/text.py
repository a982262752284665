"""Captions to words to numbers and back to sentences: cleaning that keeps what radiology needs."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from roco_caption.files import UserError, read_json, write_json

PAD, START, END, UNKNOWN = range(4)
MOST_WORDS = 100_000  # of a caption; more would be memory for nothing
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")

STOP = ". "  # between two sentences
SEEN = 3  # times two words must stand together before what stands between them is believed
BRACKETED = 4  # words in brackets at most

# A number with its decimals and letters ("1.6", "3d"), a word with its digits ("t2", "l3"), or a
# sign that changes the meaning of a number.
_WORD = re.compile(r"\d+(?:[.,]\d+)*[^\W_]*|[^\W\d_][^\W_]*|[%°±<>]")
_NUMBERS = re.compile(r"[\d.,]+ [\d.,]*")
_UNIT = re.compile(r"(?<=\d)(mm|cm|ml|cc|mg|kg|hu)\b", re.IGNORECASE)
# Where the next sentence begins with a capital; not after "L.", "e.g.", "vs.", "Fig.", "Dr.".
_NEXT_SENTENCE = re.compile(
    r"""(?<!\b[^\W\d_])(?<!\bvs)(?<!\bfig)(?<!\bdr)[.!?;](?=["')\]]*\s+["'(\[]*(?-i:[^\W\d_a-z]))""",
    re.IGNORECASE,
)


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


def _usually_written(captions: Iterable[str]) -> dict[str, str]:
    """Return each word as it stands most often within sentences, where that has capitals."""
    counts: dict[str, Counter] = {}
    for caption in captions:
        for sentence in _NEXT_SENTENCE.split(unicodedata.normalize("NFKC", caption)):
            written = _WORD.findall(_UNIT.sub(r" \1", sentence))
            # what begins with a capital may do so for being first
            first = written[0][1:] != written[0][1:].lower() if written else False
            for word in written if first else written[1:]:
                counts.setdefault(word.lower(), Counter())[word] += 1
    most = {word: max(forms, key=lambda f: (forms[f], f)) for word, forms in counts.items()}
    return {word: form for word, form in most.items() if form != word}


def _usually_between(captions: Iterable[str]) -> dict[str, str]:
    """Return what stands most often between two words, and after a caption's last one.

    Returns:
        `{"t2 weighted": "-", "mass arrow": " (", "arrow ": ")", " there": ". "}`, the latter
        before a word that mostly begins a sentence, whatever word was before. Pairs are left out
        that are rarer than `SEEN`, and those between which a space is what stands anyway.
    """
    pairs: dict[str, Counter] = {}
    for caption in captions:
        for left, joint, right in _joined(caption):
            pairs.setdefault(f"{left} {right}", Counter())[joint] += 1
            if right:
                pairs.setdefault(f" {right}", Counter())[STOP if STOP in joint else " "] += 1
    most = {
        pair: joint
        for pair, joints in pairs.items()
        for joint, count in joints.most_common(1)
        if 2 * count > joints.total() >= SEEN and not _NUMBERS.fullmatch(pair)
    }
    begins = {pair for pair, joint in most.items() if pair[0] == " " and joint == STOP}
    return {
        pair: joint
        for pair, joint in most.items()
        if joint.strip() or f" {pair.partition(' ')[2]}" in begins
    }


def _joined(caption: str) -> Iterator[tuple[str, str, str]]:
    """Yield each of a caption's words, what follows it, and the word after that or ""."""
    last, joint = "", ""
    for sentence in _NEXT_SENTENCE.split(unicodedata.normalize("NFKC", caption)):
        text = _UNIT.sub(r" \1", sentence.lower())
        words = list(_WORD.finditer(text))
        if words and last:
            yield last, joint + STOP, words[0][0]
        for left, right in pairwise(words):
            yield left[0], _joint(text[left.end() : right.start()]), right[0]
        if words:
            last, joint = words[-1][0], ")" if ")" in text[words[-1].end() :] else ""
    if last:
        yield last, joint, ""


def _joint(between: str) -> str:
    """Return what stands between two words of a sentence, reduced to what is written again."""
    if between in ("-", "\u2010", "\u2011", "/"):
        return "/" if between == "/" else "-"
    pause = ":" if ":" in between else "," if "," in between or ";" in between else ""
    return f"{')' if ')' in between else ''}{pause} {'(' if '(' in between else ''}"


def _balanced(joints: list[str]) -> list[str]:
    """Return what follows each word with brackets in pairs, a few words of a sentence in each."""
    kept = [re.sub(r"[()]", "", joint) for joint in joints]
    start = None
    for i, joint in enumerate(joints):
        ends = ")" in joint or i == len(joints) - 1
        if start is not None and ends and i - start <= BRACKETED:
            kept[start] += "("
            kept[i] = f"){kept[i]}"
            start = None
        if STOP in joint:
            start = None
        if "(" in joint:
            start = i
    return kept


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
        known, usual = set(words), _usually_written(captions)
        written = {word: form for word, form in sorted(usual.items()) if word in known}
        between = sorted(_usually_between(captions).items())
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
        if not words:
            return ""
        usual = self.joints.get
        joints = [usual(f"{a} {b}", usual(f" {b}", " ")) for a, b in pairwise(words)]
        joints = _balanced([*joints, usual(f"{words[-1]} ", "")])
        text, begins = "", self.as_sentences
        for word, joint in zip(words, joints, strict=True):
            written = self.written.get(word, word)
            text += (_capitalised(written) if begins else written) + joint
            begins = self.as_sentences and STOP in joint
        return f"{text}." if ended and self.as_sentences else text

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


def _capitalised(word: str) -> str:
    """Return it with a capital first, unless that would be another letter when read again."""
    first = word[:1].upper()
    return first + word[1:] if first.lower() == word[:1] else word
