"""Removes from training captions what no image shows: figure and case numbers, ages."""

import re

import pandas as pd

from roco_caption.core.errors import UserError

_FIGURE = r"(?:fig(?:ure)?s?|case|patient|image|video)\.?\s*(?:no\.?|number|#)?\s*"
_FIGURE += r"(?:\d+[a-z]?|[a-h])(?:\s*(?:[-–&,]|and)\s*\d+[a-z]?)*\b"
REMARKS = {  # kinds that at least 1 % of ROCO's or MedPix's captions have, see docs/data.md
    "figure and case numbers": (
        rf"^\W*(?:{_FIGURE}\s*(?:\([a-h](?:[-–,\s]+[a-h])*\))?\s*(?:$|[:;–—-]+|[.,]+(?!\d))\s*)+"
        rf"(?P<first>.?)|\s*[(\[](?:(?:also|see|same|as|in)\s+)*{_FIGURE}[)\]]"
    ),
    "ages": (
        r"(?:\b(?P<article>an?)\s+)?\b\d{1,3}(?:\.\d+)?[\s-]*(?:year|month|week|day)s?[\s-]*old\s+"
        r"(?=(?:(?!in\b)[\w-]+\s+){0,3}?(?:(?:wo)?m[ae]n|lady|gentleman|(?:fe)?male|boy|girl|child|infant"
        r"|newborn|baby|neonate|patient)s?\b)(?P<first>.)"
    ),
    "placeholders": (
        r"^\W*(?:(?:replace|insert|add) (?:this|an?|the)\b.*(?:caption|description).*|in progress"
        r"|(?:please )?see (?:attached|factoid)\b.*|(?:no )?caption(?: here)?|untitled|x{3,})\W*$"
    ),
}


def without_remarks(texts: pd.Series, of: str) -> pd.Series:
    """Return captions with `REMARKS` removed, "" where nothing is left, and say how many."""
    counts = {}
    texts = texts.astype(object)
    for name, pattern in REMARKS.items():
        cleaned = texts.str.replace(pattern, _shortened, regex=True, flags=re.I)
        counts[name], texts = (cleaned != texts).sum(), cleaned
    if removed := [f"{name} ({count:,})" for name, count in counts.items() if count]:
        print(f"Removed from {of}:", ", ".join(removed))
    return texts


def clean_training(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of captions without remarks in those for training.

    Rows without a caption then get a `reason` to be left out; a UserError if all are.
    """
    used = (rows.split == "train") & (rows.reason == "")
    texts = without_remarks(rows.caption[used], "training captions")
    if used.any() and not texts.any():
        raise UserError("All training captions are placeholders: check which column is read.")
    rows = rows.assign(caption=rows.caption.mask(used, texts))
    return rows.assign(reason=rows.reason.mask(used & (rows.caption == ""), "placeholder"))


def _shortened(match: re.Match[str]) -> str:
    """Return the letter that follows, with a capital or an article if the text needs one."""
    first, article = (match.groupdict("").get(name, "") for name in ("first", "article"))
    if article:
        return f"{article[0]}{'n' * (first in set('aeioAEIO'))} {first}"
    return first if match.start() else first.upper()
