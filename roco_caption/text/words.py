"""Captions to lower-case words: cleaning that keeps what radiology needs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

# A number with its decimals and letters ("1.6", "3d"), a word with its digits ("t2", "l3"), or a
# sign that changes the meaning of a number.
WORD = re.compile(r"\d+(?:[.,]\d+)*[^\W_]*|[^\W\d_][^\W_]*|[%°±<>]")
UNIT = re.compile(r"(?<=\d)(mm|cm|ml|cc|mg|kg|hu)\b", re.IGNORECASE)


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
    return WORD.findall(UNIT.sub(r" \1", text))


STOP = ". "  # between two sentences
SEEN = 3  # times two words must stand together before what stands between them is believed
BRACKETED = 4  # words in brackets at most

_NUMBERS = re.compile(r"[\d.,]+ [\d.,]*")
# Where the next sentence begins with a capital; not after "L.", "e.g.", "vs.", "Fig.", "Dr.".
_NEXT_SENTENCE = re.compile(
    r"""(?<!\b[^\W\d_])(?<!\bvs)(?<!\bfig)(?<!\bdr)[.!?;](?=["')\]]*\s+["'(\[]*(?-i:[^\W\d_a-z]))""",
    re.IGNORECASE,
)


def usually_written(captions: Iterable[str]) -> dict[str, str]:
    """Return each word as it stands most often within sentences, where that has capitals."""
    counts: dict[str, Counter] = {}
    for caption in captions:
        for sentence in _NEXT_SENTENCE.split(unicodedata.normalize("NFKC", caption)):
            written = WORD.findall(UNIT.sub(r" \1", sentence))
            # what begins with a capital may do so for being first
            first = written[0][1:] != written[0][1:].lower() if written else False
            for word in written if first else written[1:]:
                counts.setdefault(word.lower(), Counter())[word] += 1
    most = {word: max(forms, key=lambda f: (forms[f], f)) for word, forms in counts.items()}
    return {word: form for word, form in most.items() if form != word}


def usually_between(captions: Iterable[str]) -> dict[str, str]:
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
        text = UNIT.sub(r" \1", sentence.lower())
        words = list(WORD.finditer(text))
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


def written_out(
    words: Sequence[str], written: Mapping[str, str], joints: Mapping[str, str], as_sentences: bool
) -> str:
    """Return words as text.

    Args:
        words: lower-case words of a caption.
        written: of `usually_written`.
        joints: of `usually_between`.
        as_sentences: whether each sentence begins with a capital.
    """
    if not words:
        return ""
    usual = joints.get
    after = [usual(f"{a} {b}", usual(f" {b}", " ")) for a, b in pairwise(words)]
    text, begins = "", as_sentences
    for word, joint in zip(words, _balanced([*after, usual(f"{words[-1]} ", "")]), strict=True):
        form = written.get(word, word)
        text += (_capitalised(form) if begins else form) + joint
        begins = as_sentences and STOP in joint
    return text


def _capitalised(word: str) -> str:
    """Return it with a capital first, unless that would be another letter when read again."""
    first = word[:1].upper()
    return first + word[1:] if first.lower() == word[:1] else word
