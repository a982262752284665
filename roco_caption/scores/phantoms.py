"""Reads from any caption what it says of a phantom, and how many captions say what was drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roco_caption.data.phantoms.canvas import SIZE
from roco_caption.data.phantoms.dataset import BOX
from roco_caption.decoder.word_maps import upsampled

AMBIGUOUS = "ambiguous"

_MASS = r"mass(es)?(?! effect)|tumou?rs?|neoplasms?"
_CYST = r"(?<!dermoid )cysts?"
_KIDNEY = r"renal|kidneys?"
_ADNEXA = r"adnexal?|ovar(y|ies|ian)"

# What must be said for a finding to be read: the thing and, if it could lie elsewhere, the organ.
_FINDING_WORDS = {
    "pleural effusion": (r"effusions?",),
    "pneumothorax": (r"pneumothora(x|ces)",),
    "lung mass": (_MASS, r"lungs?|pulmonary"),
    "renal cyst": (_CYST, _KIDNEY),
    "renal mass": (_MASS, _KIDNEY),
    "psoas abscess": (r"abscess(es)?", r"(ilio)?psoas"),
    "glioma": (r"gliomas?|glioblastomas?",),
    "infarct": (r"infarct(s|ed|ions?)?",),
    "subdural hematoma": (r"subdurals?",),
    "adnexal cyst": (_CYST, _ADNEXA),
    "solid adnexal mass": (_MASS, _ADNEXA),
    "dermoid": (r"dermoids?|teratomas?",),
}
_TECHNIQUE_WORDS = {
    "chest radiograph": (r"radiographs?|x ?rays?|cxr",),
    "abdominal CT": (r"ct|computed tomography",),
    "brain MRI": (r"mri?|magnetic resonance|t2",),
    "pelvic ultrasound": (r"ultrasound|sonograms?|ultrasonograph(y|ic)|sonograph(y|ic)",),
}
_REGION_WORDS = {
    "chest radiograph": (r"chest(?! wall)|thora(x|cic)",),
    "abdominal CT": (r"abdom(en|inal)",),
    "brain MRI": (r"brain|head|cranial",),
    "pelvic ultrasound": (r"pelvi(s|c)",),
}
_SIDE_WORDS = {"right": (r"right|bilateral",), "left": (r"left|bilateral",)}
_SIZE_WORDS = {
    "small": (r"small|minimal|limited|tiny",),
    "large": (r"large|massive|extensive|bulky|huge",),
}
_DENIED = re.compile(r"\b(no|not|without)\b( \w+){0,4}")


def attributes_of(caption: str) -> dict[str, str]:
    """Read from a caption what it claims, in the words of the phantoms' labels.

    Args:
        caption: any text, a generated caption included; case and punctuation do not matter.

    Returns:
        `{"modality", "finding", "side", "size", "arrow"}`. What the caption does not say is "", and
        where it says two different things (two sides, or a CT of the chest) it is `AMBIGUOUS`;
        neither equals a true label. What follows "no" or "without" is not counted as said. `arrow`
        is "yes" or "no".
    """
    text = _DENIED.sub(" ", " ".join(re.findall(r"[^\W_]+", caption.lower())))
    technique, regions = _said(_TECHNIQUE_WORDS, text), _said(_REGION_WORDS, text)
    elsewhere = bool(technique) and bool(regions - technique)
    return {
        "modality": AMBIGUOUS if elsewhere else _only(technique),
        "finding": _only(_said(_FINDING_WORDS, text)),
        "side": _only(_said(_SIDE_WORDS, text)),
        "size": _only(_said(_SIZE_WORDS, text)),
        "arrow": "yes" if re.search(r"\barrows?\b", text) else "no",
    }


def finding_word(words: Sequence[str], finding: str) -> int | None:
    """Return the place of the last of a caption's words that names a finding, or None."""
    named = re.compile(_FINDING_WORDS[finding][0])
    return max((i for i, word in enumerate(words) if named.fullmatch(word)), default=None)


def _said(labels: Mapping[str, tuple[str, ...]], text: str) -> set[str]:
    """Return the labels for which `text` contains every pattern as whole words."""
    return {
        label
        for label, patterns in labels.items()
        if all(re.search(rf"\b({pattern})\b", text) for pattern in patterns)
    }


def _only(labels: set[str]) -> str:
    """Return the one label, "" for none, `AMBIGUOUS` for several."""
    return next(iter(labels)) if len(labels) == 1 else AMBIGUOUS if labels else ""


def shares_right(references: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
    """Return the share of captions that name what their phantom shows.

    Args:
        references: n captions of phantoms, which state the truth.
        captions: n captions to check, in the same order.

    Returns:
        Shares from 0 to 1: of each attribute alone, of modality, finding and side together, and of
        those with the size.
    """
    names = ("modality", "finding", "side", "size")
    truths, found = map(attributes_of, references), map(attributes_of, captions)
    right = np.array(
        [[truth[n] == said[n] for n in names] for truth, said in zip(truths, found, strict=True)]
    )
    shares = {name: float(right[:, i].mean()) for i, name in enumerate(names)}
    shares["modality, finding and side"] = float(right[:, :3].all(axis=1).mean())
    return shares | {"all four": float(right.all(axis=1).mean())}


def peaks_on_findings(
    found: Sequence[tuple[Sequence[str], np.ndarray]], truth: pd.DataFrame
) -> pd.DataFrame:
    """Say for each phantom whether the map of the word that names its finding peaks on it.

    Args:
        found: of `evidence`, one a phantom.
        truth: rows of the phantoms' `attributes.csv` in the same order.

    Returns:
        One row a phantom whose caption names its finding, with truth's index: `peak`, whether
        the smooth map's maximum lies in the finding's box; `cell`, whether the cell of the
        largest value touches it; `chance`, the box's share of the image; `cell_chance`, the share
        of the cells that touch it.
    """
    rows = {}
    for (words, weights), (index, row) in zip(found, truth.iterrows(), strict=True):
        place = finding_word(words, row.finding)
        if place is None:
            continue
        box = tuple(int(row[name]) for name in BOX)
        y, x = divmod(int(upsampled(weights[place], SIZE).argmax()), SIZE)
        side = round(len(weights[place]) ** 0.5)
        starts = SIZE / side * np.arange(side)
        down = (starts < box[3]) & (starts + SIZE / side > box[1])
        across = (starts < box[2]) & (starts + SIZE / side > box[0])
        touches = np.outer(down, across).ravel()
        rows[index] = {
            "peak": box[0] <= x < box[2] and box[1] <= y < box[3],
            "cell": touches[weights[place].argmax()],
            "chance": (box[2] - box[0]) * (box[3] - box[1]) / SIZE**2,
            "cell_chance": touches.mean(),
        }
    columns = ["peak", "cell", "chance", "cell_chance"]
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=columns)
