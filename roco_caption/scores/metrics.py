"""Captions as words, and BLEU, ROUGE and CIDEr from counts that add up over images."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
import regex as re  # letters with their combining marks

from roco_caption.core.errors import UserError
from roco_caption.scores.overlap import CORRECT, GUESS, counted

# A number with its separators (1.5, 1,000), a compound word (x-ray, l5-s1, pet/ct), the 's that the
# PTB tokenizer splits off, or a single sign.
_LETTERS = r"(?:[^\W_]|\p{No})+"
_COCO_TOKEN = re.compile(rf"\d+(?:[.,:]\d+)+|{_LETTERS}(?:[-‐'’/.&]{_LETTERS})*|'s|[^\w\s\p{{No}}]")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")
_PUNCTUATION = frozenset("()[]{}.?!,:;'`\"-–—…“”‘’")
References = Sequence[str | Sequence[str]]  # one or several captions per image


def coco_tokens(caption: str) -> list[str]:
    """Return the words of a caption as coco-caption's PTB tokenizer gives them, without Java.

    97 % of ROCO's 16,359 validation and test captions come out exactly as from Java, except for
    brackets, which coco-caption keeps by a slip as the words "-lrb-" and "-rrb-".
    """
    text = _POSSESSIVE.sub(" 's", caption.lower())
    return [token for token in _COCO_TOKEN.findall(text) if token not in _PUNCTUATION]


BLEU = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
MEANS = ["ROUGE-1", "ROUGE-L", "CIDEr", "words", "repeated", "copied"]


def tokenized(captions: Iterable[str]) -> list[str]:
    """Return each caption's `coco_tokens` joined by single spaces; "" stays ""."""
    return [_joined(caption) for caption in captions]


@lru_cache(1 << 17)  # ROCO's: systems and tables share captions
def _joined(caption: str) -> str:
    return " ".join(coco_tokens(unicodedata.normalize("NFC", caption)))


def as_lists(references: References) -> list[list[str]]:
    """Return each image's references as a list, also where it is one string, or missing."""
    return [[r] if isinstance(r, str | float | None) else list(r) for r in references]


def labels(groups: Sequence | None, n: int) -> np.ndarray:
    """Return the labels of n images, without `groups` all different; UserError if n differs."""
    values = np.arange(n) if groups is None else np.asarray(groups)
    if len(values) != n:
        raise UserError(f"There are {len(values)} groups for {n} images: give one per image.")
    return values


def bleu(sums: pd.DataFrame) -> pd.DataFrame:
    """Return BLEU-1 … BLEU-4 of summed `image_counts` (Papineni et al., 2002, ACL P02-1040)."""
    precision = sums[CORRECT].to_numpy() / np.maximum(sums[GUESS].to_numpy(), 1)
    ratio = sums["reflen"].to_numpy() / np.maximum(sums["testlen"].to_numpy(), 1e-9)
    brevity = np.exp(np.minimum(0, 1 - ratio))
    values = precision.cumprod(axis=1) ** (1 / np.arange(1, 5)) * brevity[:, None]
    return pd.DataFrame(values, index=sums.index, columns=BLEU)


def wording(hypotheses: Sequence[str], training: Collection[str] | None = None) -> pd.DataFrame:
    """Return each tokenized caption's length in words, and whether it repeats itself or training.

    "repeated": the share of its bigrams that occur earlier in it or are one word twice; "copied":
    1 if it is one of the tokenized training captions (NaN without these).
    """
    words = [hypothesis.split() for hypothesis in hypotheses]
    repeated = []
    for caption in words:
        bigrams = list(pairwise(caption))
        new = {(a, b) for a, b in bigrams if a != b}
        repeated.append(1 - len(new) / len(bigrams) if bigrams else 0.0)
    copied = np.nan if training is None else [t != "" and t in training for t in hypotheses]
    return pd.DataFrame({"words": map(len, words), "repeated": repeated, "copied": copied})


def image_counts(
    references: References, hypotheses: Sequence[str], training: Collection[str] | None = None
) -> pd.DataFrame:
    """Return all that each image adds to the scores, one row per image."""
    shared = counted(tuple(map(tuple, as_lists(references)))).compare(hypotheses)
    return shared.join(wording(hypotheses, training)).astype(float).assign(images=1.0)


def scores(sums: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of summed `image_counts`."""
    return bleu(sums).join(sums[MEANS].div(sums["images"], axis=0))
