"""Finds captions that contradict themselves, break off or stutter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, pairwise

import pandas as pd
import regex as re

from roco_caption.scores.clinical import (
    MODALITIES,
    REGIONS,
    are_english,
    unambiguous,
    word_patterns,
)

_AMBIGUOUS = word_patterns("""
    words: ventricle, ventricular, *ventricles, lobe, cord, *orbit*, head, *cranial, crani*, neck,
        parietal, basilar, mening*, carotid artery, root, roots, implant, panoramic, apical, disc,
        condyle, canine*, cervical, *septal, left main, thorac*, trans*, pneumo*, *peritoneal,
        sigmoid, rect*, fet*, iliac, scapho*, hand, arm, toe, calf, vertebral, t1, t2, echo, kub
""")["words"]  # of several regions or modalities: "femoral head", the vertebra T1
_WORD = "(?:an?|the|of|with|and|or|in|at|by|from|to|for|into|than|which|is|are|was|were|has|have)"
_PANEL = (
    r"(?:[(]|\b(?:panel|hepatitis|vitamin|image|fig(?:ure)?|type|grade|part|case|group|labels?|"
    r"labell?ed|view|point|arrows?\s+in)\s+)"
)
_FRAGMENT = re.compile(
    rf"\b(?!(?-i:A|OR)\b|(?<={_PANEL})a\b|(?<=\b\d+\s)in\b){_WORD}\s*[,;:]?\s*(?:[.!?](?=\s|$)|$)"
    rf"|\b(?:an|the)\s+(?!in\s+(?:situ|vivo|vitro|utero)\b){_WORD}\s|\ba\s+(?:of|the|an?)\s|^\W*$",
    re.I,
)
_LETTERED = re.compile(r"\b[^\W\d_]\w*")
_STUTTER = re.compile(
    r"\b([^\W\d_]\w*(?:[\s,]+[^\W\d_]\w*){1,9})[\s,]+\1\b|\b([^\W\d_]\w*)\s+\2\b", re.I
)


@dataclass(frozen=True)
class Coherence:
    """What training captions hardly ever name together.

    Attributes:
        apart: pairs of body regions or of modalities; None if the captions are not English.
    """

    apart: tuple[tuple[str, str], ...] | None

    @classmethod
    def fit(cls, training_captions: Sequence[str]) -> Coherence:
        """Find the pairs named together at most 0.1 times as often as by chance, if that is 3 times
        or more."""
        known = list(dict.fromkeys(training_captions))
        if not are_english(known):
            return cls(None)
        named = [_named(text) for text in known[:: 1 + len(known) // 10_000]]  # enough to count in
        count = Counter(chain.from_iterable(named))
        pairs = chain(combinations(REGIONS, 2), combinations(MODALITIES, 2))
        return cls(tuple(
            (a, b) for a, b in pairs
            if (chance := count[a] * count[b] / len(named)) >= 3
            and sum({a, b} <= names for names in named) <= 0.1 * chance
        ))  # fmt: skip

    def flaws(self, caption: str) -> tuple[bool, bool]:
        """Return whether a caption contradicts itself, and whether it breaks off or stutters."""
        named = _named(caption)
        contradiction = any(a in named and b in named for a, b in self.apart or ())
        return contradiction, self.apart is not None and _is_fragment(caption)

    def judge(self, captions: Sequence[str]) -> pd.DataFrame:
        """Return what is wrong with each caption, 1.0 or 0.0 (n, 2); means are shares of captions.

        "contradiction": it names two body regions or modalities that are `apart`.
        "fragment": a sentence ends in a word such as "with", a phrase is repeated at once, or there
        is none. NaN if the training captions are not English.
        """
        columns = ["contradiction", "fragment"]
        if self.apart is None:
            return pd.DataFrame(float("nan"), range(len(captions)), columns)
        return pd.DataFrame([self.flaws(c) for c in captions], columns=columns, dtype=float)


@lru_cache(1 << 16)
def _is_fragment(caption: str) -> bool:
    words = list(pairwise(_LETTERED.findall(caption.casefold())))
    # without two words that come twice, or one that follows itself, nothing can stutter
    may_stutter = len({(a, b) for a, b in words if a != b}) < len(words)
    return bool(_FRAGMENT.search(caption) or (may_stutter and _STUTTER.search(caption)))


@lru_cache(1 << 16)
def _named(caption: str) -> set[str]:
    """Return the regions and modalities that a caption names for certain."""
    text = re.sub(
        r"\b(?:after|before|than|by|seen on) (?:the )?(?:ct|mri?)\b", "", unambiguous(caption)
    )
    return {
        name for name, pattern in (REGIONS | MODALITIES).items()
        if any(not _AMBIGUOUS.fullmatch(match[0]) for match in pattern.finditer(text))
    }  # fmt: skip
