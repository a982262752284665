"""Reads what captions claim about phantoms, and scores claims and heat maps against the truth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.data.phantoms.canvas import SIZE
from roco_caption.data.phantoms.dataset import BOX
from roco_caption.decoder.word_maps import upsampled

AMBIGUOUS = "ambiguous"
CLAIMS = ["modality", "finding", "side", "size"]

_MASS = r"mass(es)?(?! effect)|tumou?rs?|neoplasms?"
_CYST = r"(?<!dermoid )cysts?"
_KIDNEY = r"renal|kidneys?"
_ADNEXA = r"adnexal?|ovar(y|ies|ian)"

# patterns that must all match: the thing and, if it can occur elsewhere, the organ
_FINDINGS = {
    "pleural effusion": ["effusions?"],
    "pneumothorax": ["pneumothora(x|ces)"],
    "lung mass": [_MASS, "lungs?|pulmonary"],
    "renal cyst": [_CYST, _KIDNEY],
    "renal mass": [_MASS, _KIDNEY],
    "psoas abscess": ["abscess(es)?", "(ilio)?psoas"],
    "glioma": ["gliomas?|glioblastomas?"],
    "infarct": ["infarct(s|ed|ions?)?"],
    "subdural hematoma": ["subdurals?"],
    "adnexal cyst": [_CYST, _ADNEXA],
    "solid adnexal mass": [_MASS, _ADNEXA],
    "dermoid": ["dermoids?|teratomas?"],
}
_IMAGES = {  # technique and region
    "chest radiograph": ["radiographs?|x ?rays?|cxr", "chest(?! wall)|thora(x|cic)"],
    "abdominal CT": ["ct|computed tomography", "abdom(en|inal)"],
    "brain MRI": ["mri?|magnetic resonance|t2", "brain|head|cranial"],
    "pelvic ultrasound": ["ultrasound|sonograms?|(ultra)?sonograph(y|ic)", "pelvi(s|c)"],
}
_SIDES = {"right": ["right|bilateral"], "left": ["left|bilateral"]}
_SIZES = {"small": ["small|minimal|limited|tiny"], "large": ["large|massive|extensive|huge|bulky"]}
_NEGATED = re.compile(r"\b(no|not|without)\b( \w+){0,4}")


def attributes_of(caption: str) -> dict[str, str]:
    """Read from any caption what it claims, in the words of the phantoms' labels.

    What is not stated or negated is ""; two claims (two sides, a CT of the chest) are `AMBIGUOUS`.
    """
    text = _NEGATED.sub(" ", " ".join(re.findall(r"[^\W_]+", caption.lower())))
    techniques, regions = (_labels({k: [v[i]] for k, v in _IMAGES.items()}, text) for i in (0, 1))
    return {
        "modality": _single(techniques and techniques | regions),
        "finding": _single(_labels(_FINDINGS, text)),
        "side": _single(_labels(_SIDES, text)),
        "size": _single(_labels(_SIZES, text)),
        "arrow": "yes" if re.search(r"\barrows?\b", text) else "no",
    }


def _labels(patterns: Mapping[str, list[str]], text: str) -> set[str]:
    """Return the labels whose patterns all occur in `text` as whole words."""
    found = {k: [re.search(rf"\b({p})\b", text) for p in parts] for k, parts in patterns.items()}
    return {label for label, matches in found.items() if all(matches)}


def _single(labels: set[str]) -> str:
    return AMBIGUOUS if len(labels) > 1 else "".join(labels)


@lru_cache(maxsize=10_000)  # the same captions come again: shuffled, and as references
def _claims(caption: str) -> tuple[str, ...]:
    return tuple(map(attributes_of(caption).__getitem__, CLAIMS))


def claims_right(references: Sequence[str], captions: Sequence[str]) -> pd.DataFrame:
    """Return which of `CLAIMS` each caption makes as its phantom's reference does, bool (n, 4)."""
    sides = [pd.DataFrame(map(_claims, x), columns=CLAIMS) for x in (references, captions)]
    return sides[0] == sides[1]


def shares_right(references: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
    """Return the shares of captions that state what their phantoms' references state.

    Keys: each attribute; "modality, finding and side"; "all four", with the size.
    """
    right = claims_right(references, captions)
    shares = right.mean()
    shares["modality, finding and side"] = right[CLAIMS[:3]].all(axis=1).mean()
    shares["all four"] = right.all(axis=1).mean()
    return shares.to_dict()


def score_phantoms(systems: Mapping[str, Any], references: Sequence[str]) -> pd.DataFrame:
    """Return `shares_right` per system: n captions each, or several runs that are averaged."""
    shares = {}
    for name, captions in systems.items():
        runs = [captions] if isinstance(captions[0], str) else captions
        shares[name] = pd.DataFrame([shares_right(references, run) for run in runs]).mean()
    return pd.DataFrame(shares).T


def peaks_on_findings(
    maps: Sequence[tuple[Sequence[str], np.ndarray]], truth: pd.DataFrame
) -> pd.DataFrame:
    """Return for each phantom whether the map of the word that names its finding peaks on it.

    `maps` are from `word_maps`, `truth` has the rows of the phantoms' `attributes.csv`. There is
    one row per phantom whose caption names its finding, with truth's index: `peak`, whether the
    smooth map's maximum is in the finding's box; `cell`, whether the largest cell touches it;
    `chance`, `cell_chance`: shares of the pixels in it, of the cells that touch it.
    """
    rows = {}
    for (words, weights), (index, row) in zip(maps, truth.iterrows(), strict=True):
        name = _FINDINGS[row.finding][0]
        positions = [i for i, word in enumerate(words) if re.fullmatch(name, word)]
        if not positions:
            continue
        cells = weights[positions[-1]]
        x0, y0, x1, y1 = (int(row[name]) for name in BOX)
        box = np.zeros((SIZE, SIZE), bool)
        box[y0:y1, x0:x1] = True
        side = round(len(cells) ** 0.5)
        starts, ends = SIZE / side * np.arange(side), SIZE / side * np.arange(1, side + 1)
        touches = np.outer((starts < y1) & (ends > y0), (starts < x1) & (ends > x0)).ravel()
        peak = box.flat[upsampled(cells, SIZE).argmax()]
        rows[index] = peak, touches[cells.argmax()], box.mean(), touches.mean()
    names = ["peak", "cell", "chance", "cell_chance"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)
