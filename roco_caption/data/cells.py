"""Says what a table's cells hold: text, nothing, or captions that are no text."""

from __future__ import annotations

import ast
import html
import json
import re
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

MISSING = {
    "\\n", "na", "nan", "n/a", "<na>", "n.a.", "none", "null", "-",
    "#n/a", "#name?", "#ref!", "#value!", "#null!", "#div/0!", "#num!",
}  # fmt: skip
_ATTRIBUTES = r"(?:\s+[\w-]+=(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>]+))*\s*/?>"
INLINE = re.compile(rf"</?(?:a|b|em|font|i|span|strong|sub|sup|u){_ATTRIBUTES}", re.I)
BLOCK = re.compile(rf"</?(?:br|div|h[1-6]|li|ol|p|table|tbody|td|th|tr|ul){_ATTRIBUTES}", re.I)
ENTITY = re.compile(r"&(?:[a-z]+|#\d+|#x[\da-f]+);", re.I)
ESCAPE = re.compile(r"(?:\\r)?\\n(?!(?:u|e|eq|abla)\b)|\\[rt](?![a-z])")  # not LaTeX's \nu
LIST = re.compile(r"""\[\s*(['"]).*(\1|null|None)\s*\]""", re.S)
GLUED = re.compile(r"""['"]\s+['"]""")  # in the text of an array, which has no commas
PLACE = "\0 place"  # a column: the number of the line or row in the file


def text_of(value: Any) -> str:
    """Return a cell as text: whole numbers without `.0`, "" for what is missing."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    missing = value is None or (pd.api.types.is_scalar(value) and pd.isna(value))
    text = str(value).encode("utf-8", "ignore").decode()  # without halves of surrogate pairs
    return "" if missing or text.strip().lower() in MISSING else text


def plain_text(text: str) -> str:
    """Return a caption without HTML; tabs, written breaks and block tags become line breaks."""
    text = BLOCK.sub("\n", INLINE.sub("", ESCAPE.sub("\n", text)))
    return ENTITY.sub(lambda found: html.unescape(found[0]), text)


def holds_images(cells: pd.Series) -> bool:
    """Return whether cells hold the images themselves, or other objects, instead of their names."""
    listed = cells.map(_listed).map(lambda cell: cell if isinstance(cell, list) else [cell])
    kinds = dict | list | bytes | bytearray
    return bool(listed.explode().map(lambda cell: isinstance(cell, kinds)).any())


def by_image(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a row per image where cells of the column list several."""
    names = rows[column].map(_listed).astype(object)
    return rows.assign(**{column: names}).explode(column, ignore_index=True)


def unescaped(cell: Any) -> Any:
    """Return a cell with the line breaks and the like that Excel writes as `_x000D_`."""
    code = r"_x(00[01][0-9A-F]|005F|007F)_"  # others may be in a file's name
    return re.sub(code, lambda m: chr(int(m[1], 16)), cell) if isinstance(cell, str) else cell


def _listed(cell: Any) -> Any:
    """Return the texts of a list, also of one written as "['Chest.', 'No effusion.']"."""
    if isinstance(cell, np.ndarray):
        return [*cell]
    if not isinstance(cell, str) or not LIST.fullmatch(cell.strip()) or GLUED.search(cell):
        return cell
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            texts = parse(cell.strip())
            return texts if all(isinstance(text, str | None) for text in texts) else cell
    return cell


def captions_of(rows: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """Return a row per caption, "" for what is no text, and a note on these, for `Table.how`.

    Raises a ValueError if no caption is text.
    """
    lists = rows[column].map(lambda cell: [cell] if isinstance(cell, dict) else _listed(cell))
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
