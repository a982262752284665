"""Says what a table's cells hold: text, nothing, or captions that are no text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

MISSING = {
    "nan", "n/a", "<na>", "n.a.", "none", "null", "-",
    "#n/a", "#name?", "#ref!", "#value!", "#null!", "#div/0!", "#num!",
}  # fmt: skip
PLACE = "\0 place"  # a column: the number of the line or row in the file


def text_of(value: Any) -> str:
    """Return a cell as text: whole numbers without `.0`, "" for what is missing."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    missing = value is None or (pd.api.types.is_scalar(value) and pd.isna(value))
    return "" if missing or str(value).strip().lower() in MISSING else str(value)


def captions_of(rows: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """Return a row per caption, "" for what is no text, and a note on these, for `Table.how`.

    Raises a ValueError if no caption is text.
    """
    lists = rows[column].map(lambda cell: [cell] if isinstance(cell, dict) else cell)
    rows = rows.assign(**{column: lists.astype(object)}).explode(column, ignore_index=True)
    odd = rows[column][~rows[column].map(lambda cell: isinstance(cell, str) or not text_of(cell))]
    if odd.empty:
        return rows, ""
    place = rows[PLACE][odd.index[0]]
    first = f"{column!r} has {str(odd.iloc[0])!r:.60} in row {place}, which is not text"
    if len(odd) == (rows[column].map(text_of) != "").sum():
        raise ValueError(first)
    rows.loc[odd.index, column] = ""
    return rows, f". NOTE: {first} ({len(odd):,} such rows are not used)"
