"""Captions to lower-case words that keep what radiology needs, and words to sentences."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import regex  # as `re`, but letters keep their combining marks (Hindi, Thai, Arabic)

JOINER = "\u2060"  # Unicode's "word joiner": no space on this side of a token
_PREPARED: dict[int, int | str] = dict.fromkeys(map(ord, f"{JOINER}\u00ad\ufeff"), "")  # invisible
_PREPARED |= zip(range(0xFF01, 0xFF5F), range(0x21, 0x7F), strict=True)  # full width: "ＣＴ"
_APOSTROPHE, _DASH = "['’´`]", "[-‐‑–—−]"
_QUOTED = r"(?<!\w)['‘´`][^'’]*['’]"  # a quotation's beginning and end
_STICKY = f"{JOINER}'’´`"  # at a word's edge: no space there
_END = r"(?![^\W_]|\p{No})"  # of a word
_UNIT = rf"(?i:mm|cm|ml|cc|mg|kg|hu)[²³]?(?=x\d|{_END})"
_TIMES = rf"[xX](?=\d|{_END})"
_AT_END = rf"[).]*$(?<!{_QUOTED}.*)"  # of a truncated caption, not of a quotation
_SUFFIX = rf"{_APOSTROPHE}(?i:s|t|d|m|re|ve|ll){_END}"
_TOKENS = (
    rf"(?<=\d){_UNIT}",  # "5mm"
    rf"(?<=\d|\d[mcMC][mM]){_TIMES}",  # "3x4"
    # a number with its decimals and letters: "1.6", ".5", "1,000", "3d", "10³"
    rf"(?P<word>(?:(?<![\w.,])\.)?\d+(?:[.,]\d+)*(?:(?!{_UNIT}|{_TIMES})(?:[^\W_]|[\p{{No}}⁺⁻])+)?)",
    rf"(?<=[^\W_]){_SUFFIX}",  # "Crohn's"
    # a word with its digits ("t2", "l3"), Hebrew's double mark, or the apostrophe of "l'abdomen"
    r"(?P<word>(?:[^\W\d_]|\p{No})(?:[^\W_]|\p{No}|(?<=\p{Hebrew})[\"״](?=\p{Hebrew}))*)"
    rf"(?:(?!{_SUFFIX}){_APOSTROPHE}(?=[^\W_]|{_AT_END}))?",
    r"(?![®©™−´`])[\p{Sm}\p{Sc}\p{So}%‰^*#&@′″†‡§।॥۔。]",  # a sign that carries meaning
    rf"(?<=\d\s*)(?:{_DASH}|[/:])(?=\s*\.?\d|[).]*$)",  # "10-20", "L4/5"
    rf"(?<![\w.%)\]]){_DASH}(?=\.?\d)",  # "-85"
    rf"(?<!\S){_DASH}(?!\S)|(?<=\(){_DASH}(?=\))|(?<!\w){_DASH}(?=[).]*$)",  # " - ", "(-)"
)
# the first two parts, a usual word and what begins no token, only save time
_TOKEN = regex.compile(
    r"(?<![^\s(])(?P<word>[A-Za-z]++)(?![^\s,.;:)])"
    rf"|(?![\s,()]|\.(?!\d))(?:{'|'.join(_TOKENS)})"
)
# A full stop and the like if a capital follows; not after "L.", "e.g.", "vs.", "Fig.", "Dr.".
_SENTENCE_END = regex.compile(
    r"""(?<!\b[^\W\d_])(?<!\bvs)(?<!\bfig)(?<!\bdr)[.!?;](?=["')\]]*\s+["'(\[]*(?-i:[^\W\d_a-z]))""",
    regex.IGNORECASE,
)
_NUMBERS = regex.compile(r"[\d.,]+ [\d.,]*")  # a pair of numbers, or one at the end
# what is written back as it is: the hyphen of "T2-weighted", "patients' "
_LITERAL = regex.compile(r"[^\s.,:;!?\"“”„‘`()\[\]{}<>]|['’] ")
_STOP = ". "  # joint between two sentences
_MIN_PAIRS = 3  # occurrences of a word pair below which its joint is not learnt
_MAX_BRACKETED = 4  # words in one pair of brackets


def clean(caption: str) -> list[str]:
    """Split a caption into lower-case words and signs: "T2-weighted, 5mm" → t2 weighted 5 mm."""
    return [name.strip(JOINER) for name in token_names(caption)]


@lru_cache(1 << 17)  # ROCO's: the search for leaks and the tokenizer read each caption
def token_names(caption: str) -> tuple[str, ...]:
    """Return the words of `clean`, with a `JOINER` where a sign adjoins its neighbour.

    "10-20 mm" and "-85 HU" differ in the joiners of "-", so that they come back as they were.
    """
    return tuple(name for name, _ in _tokens(caption.translate(_PREPARED)))


def _tokens(text: str) -> list[tuple[str, regex.Match[str]]]:
    """Return the name of each word and sign, and where it is."""
    matches = list(_TOKEN.finditer(text))
    names = [_name(match[0]) for match in matches]
    for i, (left, right) in enumerate(pairwise(matches)):
        if left.end() != right.start():
            continue
        if names[i][-1] not in _STICKY and names[i + 1][0] not in _STICKY:
            if right["word"] == right[0]:
                names[i] += JOINER
            else:
                names[i + 1] = JOINER + names[i + 1]
    return list(zip(names, matches, strict=True))


@lru_cache(maxsize=1 << 16)
def _name(written: str) -> str:
    """Return a word in lower case, normalised unless that would make it another ("10³", "½")."""
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", written).lower())
    other = regex.search(r"(?<!\p{L})\p{No}", written) or not _TOKEN.fullmatch(name)
    return written.lower() if other else name


def usual_forms(captions: Iterable[str], vocabulary: set[str]) -> dict[str, str]:
    """Return the most frequent spelling of each word that differs from its name: `{"ct": "CT"}`."""
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    for caption in captions:
        for sentence in _SENTENCE_END.split(caption.translate(_PREPARED)):
            last = ""
            for i, (name, match) in enumerate(_tokens(sentence)):
                form, before, last = match[0], last, name
                if name not in vocabulary or _is_times(before, name):
                    continue
                # "The" may have its capital for being first, "CT" does not
                if i == 0 and form[1:] == form[1:].lower():
                    form = form[:1].lower() + form[1:]
                    if form == name.strip(JOINER):
                        continue
                counts[name][form] += 1
    usual = {word: max(f, key=lambda form: (f[form], form)) for word, f in sorted(counts.items())}
    return {word: form for word, form in usual.items() if form != word.strip(JOINER)}


def _is_times(last: str, word: str) -> bool:
    """Return whether "x" means "times", which is not written as the X of "X-ray"."""
    return word == "x" and (last[-1:].isdigit() or last.strip(JOINER) in ("cm", "mm"))


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
    for pair, joints in sorted(counts.items()):  # " there" first, then "mass there"
        joint, count = joints.most_common(1)[0]
        learnt = 2 * count > joints.total() >= _MIN_PAIRS and not _NUMBERS.fullmatch(pair)
        needed = joint.strip() or f" {pair.partition(' ')[2]}" in usual
        if learnt and needed and vocabulary.issuperset(pair.split()):
            usual[pair] = joint
    return usual


def is_sentence(caption: str) -> bool:
    """Return whether a capital begins a caption, or in scripts without them a full stop ends it."""
    first = caption.lstrip()[:1]
    uncased = first.isalpha() and first.lower() == first.upper()
    return caption.rstrip().endswith(".") if uncased else first.isupper()


def _joints(caption: str) -> Iterator[tuple[str, str, str]]:
    """Yield each word of a caption, what follows it, and the next word ("" after the last)."""
    last, joint = "", ""
    for sentence in _SENTENCE_END.split(caption.translate(_PREPARED)):
        tokens = _tokens(sentence)
        if tokens and last:
            yield last, joint + _STOP, tokens[0][0]
        for (left, match), (right, following) in pairwise(tokens):
            yield left, _joint(sentence[match.end() : following.start()]), right
        if tokens:
            last, match = tokens[-1]
            joint = ")" if ")" in sentence[match.end() :] else ""
    if last:
        yield last, joint, ""


def _joint(between: str) -> str:
    """Return the text between two words of a sentence, reduced to what is reproduced."""
    if between == " " or _LITERAL.fullmatch(between):
        return between
    pause = next((sign for sign in between if sign in ":;,،؛；，、"), "")
    return f"{')' if ')' in between else ''}{pause} {'(' if '(' in between else ''}"


def join_words(
    words: Sequence[str], forms: Mapping[str, str], joints: Mapping[str, str], as_sentences: bool
) -> str:
    """Return lower-case words as text; `as_sentences` begins each sentence with a capital."""
    after = [_usual(left, right, joints) for left, right in pairwise(words)]
    after += [joints.get(f"{word} ", "") for word in words[-1:]]
    text, capital, last = "", as_sentences, ""
    for word, joint in zip(words, _balanced(after), strict=True):
        form = word if _is_times(last, word) else forms.get(word, word.strip(JOINER))
        first = form[:1].upper()
        if capital and first.lower() == form[:1]:  # not "ß", "µ": cleaning would not undo that
            form = first + form[1:]
        text += form + joint
        capital, last = as_sentences and _STOP in joint, word
    return text


def _usual(left: str, right: str, joints: Mapping[str, str]) -> str:
    if left[-1] in _STICKY or right[0] in _STICKY:
        return ""
    default = joints.get(f" {right}", " ") if left[-1].isalnum() else " "  # "–" ends no sentence
    return joints.get(f"{left} {right}", default)


def _balanced(joints: list[str]) -> list[str]:
    """Return the joints with brackets only in pairs, each around a few words of one sentence."""
    result = [regex.sub(r"[()]", "", joint) for joint in joints]
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
