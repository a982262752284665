"""Tokenization protocols, and BLEU, METEOR, ROUGE and CIDEr from counts that add up over images."""

from __future__ import annotations

import shutil
import string
import subprocess
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

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


def imageclef_tokens(caption: str) -> list[str]:
    """Return the words of a caption as the ImageCLEFmedical caption task's evaluator sees them."""
    text = re.sub(r"\d+", "number", caption.lower())
    return text.translate(str.maketrans("", "", string.punctuation)).split()


# name: function, and what a table's caption says about it
PROTOCOLS = {
    "coco": (coco_tokens, "lower-case, punctuation removed as by coco-caption's PTB tokenizer"),
    "imageclef": (imageclef_tokens, "lower-case, digits replaced, punctuation removed (ImageCLEF)"),
}
BLEU = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
MEANS = ["ROUGE-1", "ROUGE-L", "CIDEr", "words", "repeated", "copied"]
METEOR_COUNTS = [f"meteor_{i}" for i in range(23)]


def tokenized(captions: Iterable[str], protocol: str) -> list[str]:
    """Return each caption as its words joined by single spaces; "" stays ""."""
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    return [_joined(caption, protocol) for caption in captions]


@lru_cache(1 << 17)  # ROCO's: systems and tables share captions
def _joined(caption: str, protocol: str) -> str:
    return " ".join(PROTOCOLS[protocol][0](unicodedata.normalize("NFC", caption)))


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
    """Return BLEU-1 … BLEU-4 of summed `bleu_counts` (Papineni et al., 2002, ACL P02-1040)."""
    precision = sums[CORRECT].to_numpy() / np.maximum(sums[GUESS].to_numpy(), 1)
    ratio = sums["reflen"].to_numpy() / np.maximum(sums["testlen"].to_numpy(), 1e-9)
    brevity = np.exp(np.minimum(0, 1 - ratio))
    values = precision.cumprod(axis=1) ** (1 / np.arange(1, 5)) * brevity[:, None]
    return pd.DataFrame(values, index=sums.index, columns=BLEU)


def meteor_counts(references: References, hypotheses: Sequence[str]) -> pd.DataFrame:
    """Return each image's 23 match counts of METEOR 1.5 with its best reference, one row per image.

    Java takes some 8 s to start, then 1 s per 1,000 captions; a UserError says what is missing.
    """
    if shutil.which("java") is None:
        raise UserError("there is no Java runtime here")
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("pycocoevalcap is missing: pip install pycocoevalcap")
    folder = Path(spec.submodule_search_locations[0]) / "meteor"
    command = ["java", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    pairs = zip(as_lists(references), hypotheses, strict=True)
    lines = "".join(f"SCORE ||| {' ||| '.join(texts)} ||| {text}\n" for texts, text in pairs)
    done = subprocess.run(command, cwd=folder, input=lines.encode(), capture_output=True)
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    if done.returncode or len(rows) != len(references):
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise UserError(f"Java's METEOR failed ({reason or 'no reason given'})")
    counts = np.array(rows, float)
    # As in METEOR's own sums: a pair that matches as a whole, in one piece, has no fragments.
    counts[(counts[:, 20] == 1) & (counts[:, 21:23] == counts[:, 0:2]).all(axis=1), 20] = 0
    return pd.DataFrame(counts, columns=METEOR_COUNTS)


def meteor(sums: pd.DataFrame) -> np.ndarray:
    """Return METEOR of summed counts (Denkowski and Lavie, 2014, W14-3348; English weights)."""
    counts = sums[METEOR_COUNTS].to_numpy(float).T
    # Exact, stem, synonym and paraphrase matches; content and function words weigh differently.
    stages, content = np.array([1.0, 0.6, 0.8, 0.6]), 0.75
    matches = counts[4:20].reshape(4, 2, 2, -1)  # stage; content, function; hypothesis, reference
    matches = np.tensordot(stages, content * matches[:, 0] + (1 - content) * matches[:, 1], axes=1)
    length = content * (counts[0:2] - counts[2:4]) + (1 - content) * counts[2:4]
    precision, recall = matches / np.maximum(length, 1e-9)
    mean = precision * recall / np.maximum(0.85 * precision + 0.15 * recall, 1e-9)
    fragments = 2 * counts[20] / np.maximum(counts[21] + counts[22], 1)
    return mean * (1 - 0.6 * fragments**0.2)


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
    """Return all that each image adds to the scores, except METEOR's counts; one row per image."""
    shared = counted(tuple(map(tuple, as_lists(references)))).compare(hypotheses)
    return shared.join(wording(hypotheses, training)).astype(float).assign(images=1.0)


def scores(sums: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of summed `image_counts`, joined by `meteor_counts` for METEOR."""
    table = bleu(sums)
    if METEOR_COUNTS[0] in sums:
        table["METEOR"] = meteor(sums)
    return table.join(sums[MEANS].div(sums["images"], axis=0))
