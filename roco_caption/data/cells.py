"""Says what a table's cells hold: text, nothing, or captions that are no text."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable
from contextlib import suppress
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


def holds_images(cells: pd.Series) -> bool:
    """Return whether cells hold the images themselves, or other objects, instead of their names."""
    listed = cells.map(_listed).map(lambda cell: cell if isinstance(cell, list) else [cell])
    kinds = dict | list | bytes | bytearray
    return bool(listed.explode().map(lambda cell: isinstance(cell, kinds)).any())


def by_image(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a row per image where cells of the column list several."""
    names = rows[column].map(_listed).astype(object)
    return rows.assign(**{column: names}).explode(column, ignore_index=True)


def rows_of_json(text: str, are_columns: Callable) -> tuple[pd.DataFrame, str]:
    """Return the rows of a JSON file, and its layout; `are_columns` says it of a list of names.

    A list of rows, a row per line, columns as pandas writes them, COCO's layout, or captions by
    image. Raises a ValueError for others.
    """
    value = None
    with suppress(ValueError):  # several objects, one per line
        value = json.loads(text)
    if isinstance(value, dict) and {"images", "annotations"} <= value.keys():
        files = {image["id"]: image["file_name"] for image in value["images"]}
        pairs = [(files.get(one["image_id"]), one["caption"]) for one in value["annotations"]]
        return pd.DataFrame(pairs, columns=["file_name", "caption"]), "JSON in COCO's layout"
    if isinstance(value, dict) and not are_columns([*value]):
        if not value or not all(isinstance(cell, str | list) for cell in value.values()):
            raise ValueError(
                "it is no list of rows, not in COCO's layout, and not {image: caption}"
            )
        rows = {"image": [*value], "caption": [*value.values()]}
        return pd.DataFrame(rows), "JSON {image: caption}"
    if isinstance(value, dict) and all(isinstance(c, dict | list) for c in value.values()):
        return pd.DataFrame(value).reset_index(drop=True), "JSON columns"
    lines = not isinstance(value, list)
    rows = pd.read_json(io.StringIO(text), lines=lines, dtype=False, convert_dates=False)
    return rows, f"JSON {'lines' if lines else 'list'}, encoding UTF-8"


def unescaped(cell: Any) -> Any:
    """Return a cell with the line breaks and the like that Excel writes as `_x000D_`."""
    code = r"_x(00[01][0-9A-F]|005F|007F)_"  # others may be in a file's name
    return re.sub(code, lambda m: chr(int(m[1], 16)), cell) if isinstance(cell, str) else cell


def _listed(cell: Any) -> Any:
    """Return the texts of a list, also of one written as "['Chest.', 'No effusion.']"."""
    if isinstance(cell, np.ndarray):
        return [*cell]
    glued = isinstance(cell, str) and re.search(r"""['"]\s+['"]""", cell)  # an array's text
    if (
        isinstance(cell, str)
        and not glued
        and re.fullmatch(r"""\[\s*(['"]).*\1\s*\]""", cell.strip(), re.S)
    ):
        with suppress(ValueError, SyntaxError):
            texts = ast.literal_eval(cell.strip())
            return texts if all(isinstance(text, str) for text in texts) else cell
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
