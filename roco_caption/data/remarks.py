"""Removes from training captions what no image shows: figure and case numbers, ages."""

import re

import pandas as pd

from roco_caption.core.errors import UserError

_NUMBER = r"(?:\d+[a-p]?|[a-h])"  # "3", "2A", or a panel "b"
_PANELS = r"[(\[][a-h](?:[-–,\s]+[a-h])*[)\]]"
_FIGURE = r"(?:fig(?:ure)?s?|case|patient|image|video)\.?\s*(?:no\.?|number|#)?\s*"
# not the "5" of "Case 4, 5-mm nodule", nor the "C" of "Image C-arm"
_FIGURE += rf"{_NUMBER}(?:\s*(?:[-–&,]|and)\s*{_NUMBER})*(?!\w|[-–]\w)"
REMARKS = {  # kinds that at least 1 % of ROCO's or MedPix's captions have, see docs/data.md
    "figure and case numbers": (
        rf"^\W*(?:(?:and\s+)?{_FIGURE}\s*(?:{_PANELS}\s*)?(?:$|[:;–—-]+|[.,]+(?!\d)|(?<=[)\]]))\s*)+"
        rf"(?P<first>.?)|\s*[(\[](?:(?:also|see|same|as|in)\s+)*{_FIGURE}[)\]]"
    ),
    "ages": (
        r"(?:\b(?P<article>an?)\s+)?\b\d{1,3}(?:\.\d+)?[\s-]*(?:year|month|week|day)s?[\s-]*old\s+"
        r"(?=(?:(?!(?:in|of)\b)[\w-]+\s+){0,3}?(?:(?:wo)?m[ae]n|lady|gentleman|(?:fe)?male|boy|girl|child"
        r"|infant|newborn|baby|neonate|patient)s?\b)(?P<first>.{3})"
    ),
    "placeholders": (
        r"^\W*(?:(?:replace|insert|add) (?:this|an?|the)\b.*(?:caption|description).*|in progress"
        r"|(?:please )?see (?:attached|factoid)(?: \x22?\w+\x22?){0,5}"
        r"|(?:no )?caption(?: here)?|untitled|x{3,})\W*$"
    ),
}
VOWEL = re.compile(r"[aeio]|un(?!i)", re.I)  # after "an"


def without_remarks(texts: pd.Series, of: str = "") -> pd.Series:
    """Return captions with `REMARKS` removed, "" where nothing is left; say how many, if `of`."""
    counts = {}
    texts = texts.astype(object)
    for name, pattern in REMARKS.items():
        cleaned = texts.str.replace(pattern, _shortened, regex=True, flags=re.I)
        counts[name], texts = (cleaned != texts).sum(), cleaned
    removed = [f"{name} ({count:,})" for name, count in counts.items() if count]
    if removed and of:
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
    """Return the letters that follow, with a capital or an article if the text needs one."""
    first, article = (match.groupdict("").get(name, "") for name in ("first", "article"))
    if article:
        return f"{article[0]}n {first}" if VOWEL.match(first) else f"{article[0]} {first}"
    return first if match.start() else first[:1].upper() + first[1:]
