"""Captions to lower-case words that keep what radiology needs, and words to sentences."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

# A number with its decimals and letters ("1.6", "3d"), a word with its digits ("t2", "l3"), or a
# sign that changes the meaning of a number.
_WORD = re.compile(r"\d+(?:[.,]\d+)*[^\W_]*|[^\W\d_][^\W_]*|[%°±<>]")
_UNIT = re.compile(r"(?<=\d)(mm|cm|ml|cc|mg|kg|hu)\b", re.IGNORECASE)
# A full stop and the like if a capital follows; not after "L.", "e.g.", "vs.", "Fig.", "Dr.".
_SENTENCE_END = re.compile(
    r"""(?<!\b[^\W\d_])(?<!\bvs)(?<!\bfig)(?<!\bdr)[.!?;](?=["')\]]*\s+["'(\[]*(?-i:[^\W\d_a-z]))""",
    re.IGNORECASE,
)
_STOP = ". "  # joint between two sentences
_MIN_PAIRS = 3  # occurrences of a word pair below which its joint is not learnt
_MAX_BRACKETED = 4  # words in one pair of brackets


def clean(caption: str) -> list[str]:
    """Split a caption into lower-case words, keeping numbers, levels, sides and negations.

    `"T2-weighted, 5mm"` → `["t2", "weighted", "5", "mm"]`; Unicode is normalised (NFKC).
    """
    return _WORD.findall(_normalised(caption).lower())


def _normalised(caption: str) -> str:
    return _UNIT.sub(r" \1", unicodedata.normalize("NFKC", caption))


def usual_forms(captions: Iterable[str], vocabulary: set[str]) -> dict[str, str]:
    """Return the most frequent spelling of each word, where it has capitals: `{"ct": "CT"}`."""
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    for caption in captions:
        for sentence in _SENTENCE_END.split(_normalised(caption)):
            words = _WORD.findall(sentence)
            # "The" may have its capital for being first, "CT" does not
            if words and words[0][1:] == words[0][1:].lower():
                words = words[1:]
            for word in words:
                counts[word.lower()][word] += 1
    usual = {word: max(forms, key=lambda f: (forms[f], f)) for word, forms in counts.items()}
    return {w: form for w, form in sorted(usual.items()) if form != w and w in vocabulary}


def usual_joints(captions: Iterable[str], vocabulary: set[str]) -> dict[str, str]:
    """Return what most captions write between two words, after the last, and before any sentence.

    `{"t2 weighted": "-", "mass arrow": " (", "arrow ": ")", " there": ". "}`, the last one before
    "there" after any word. Pairs that are rare or separated by a space anyway are left out.
    """
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    for caption in captions:
        for left, joint, right in _joints(caption):
            counts[f"{left} {right}"][joint] += 1
            if right:
                counts[f" {right}"][_STOP if _STOP in joint else " "] += 1
    usual: dict[str, str] = {}
    for pair, joints in counts.items():
        joint, count = joints.most_common(1)[0]
        if 2 * count > joints.total() >= _MIN_PAIRS and not re.fullmatch(r"[\d.,]+ [\d.,]*", pair):
            usual[pair] = joint
    openers = {pair for pair, joint in usual.items() if pair[0] == " " and joint == _STOP}
    return {
        pair: joint
        for pair, joint in sorted(usual.items())
        if vocabulary.issuperset(pair.split())
        and (joint.strip() or f" {pair.partition(' ')[2]}" in openers)
    }


def _joints(caption: str) -> Iterator[tuple[str, str, str]]:
    """Yield each word of a caption, what follows it, and the next word ("" after the last)."""
    last, joint = "", ""
    for sentence in _SENTENCE_END.split(_normalised(caption)):
        text = sentence.lower()
        words = list(_WORD.finditer(text))
        if words and last:
            yield last, joint + _STOP, words[0][0]
        for left, right in pairwise(words):
            yield left[0], _joint(text[left.end() : right.start()]), right[0]
        if words:
            last, joint = words[-1][0], ")" if ")" in text[words[-1].end() :] else ""
    if last:
        yield last, joint, ""


def _joint(between: str) -> str:
    """Return the text between two words of a sentence, reduced to what is reproduced."""
    if between in ("/", "-", "\u2010", "\u2011"):
        return "/" if between == "/" else "-"
    pause = ":" if ":" in between else "," if "," in between or ";" in between else ""
    return f"{')' if ')' in between else ''}{pause} {'(' if '(' in between else ''}"


def join_words(
    words: Sequence[str], forms: Mapping[str, str], joints: Mapping[str, str], as_sentences: bool
) -> str:
    """Return lower-case words as text; `as_sentences` begins each sentence with a capital."""
    after = [joints.get(f"{a} {b}", joints.get(f" {b}", " ")) for a, b in pairwise(words)]
    after += [joints.get(f"{word} ", "") for word in words[-1:]]
    text, capital = "", as_sentences
    for word, joint in zip(words, _balanced(after), strict=True):
        form = forms.get(word, word)
        text += (_capitalised(form) if capital else form) + joint
        capital = as_sentences and _STOP in joint
    return text


def _balanced(joints: list[str]) -> list[str]:
    """Return the joints with brackets only in pairs, each around a few words of one sentence."""
    result = [re.sub(r"[()]", "", joint) for joint in joints]
    opened = None
    for i, joint in enumerate(joints):
        closes = ")" in joint or i == len(joints) - 1
        if opened is not None and closes and i - opened <= _MAX_BRACKETED:
            result[opened] += "("
            result[i] = f"){result[i]}"
        if closes or _STOP in joint:
            opened = None
        if "(" in joint:
            opened = i
    return result


def _capitalised(word: str) -> str:
    """Return the word with a capital first, unless cleaning would not undo that ("ß", "µ")."""
    first = word[:1].upper()
    return first + word[1:] if first.lower() == word[:1] else word
