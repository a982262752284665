"""Reads the rows of JSON files in the layouts of captioning data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

LAYOUTS = (
    "its layout is not known: no list of rows, not COCO's, not {image: caption}; write a list of "
    'rows, as in [{"image": "a.png", "caption": "Normal chest."}]'
)


def rows_of_json(text: str, is_column: Callable[[str], bool]) -> tuple[pd.DataFrame, str]:
    """Return the rows of a JSON file, and its layout.

    `is_column` says whether a name is that of a usual column. Layouts: a list of rows, one per
    split, a row per line, columns as pandas writes them, COCO's, captions or rows by image. Raises
    a ValueError for others.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        return _frame(_json_lines(text, error)), "JSON lines, encoding UTF-8"
    if isinstance(value, list) and (not value or _are_rows(value)):
        return _frame(value), "JSON list, encoding UTF-8"
    if not isinstance(value, dict):
        raise ValueError(LAYOUTS)
    if {"images", "annotations"} <= value.keys():
        return _of_coco(value), "JSON in COCO's layout"
    lists = {name: part for name, part in value.items() if _are_rows(part)}
    columns = [name for name in value if is_column(name)]
    if lists and len(columns) < 2:
        return _of_lists(lists), f"JSON lists {', '.join(lists)}"
    if columns:
        if all(isinstance(cell, dict | list) for cell in value.values()):
            return pd.DataFrame(value, dtype=object).reset_index(drop=True), "JSON columns"
        return _frame([value]), "JSON list, encoding UTF-8"
    if value and all(isinstance(cell, dict) for cell in value.values()):
        return _frame([{"image": name} | row for name, row in value.items()]), "JSON {image: row}"
    if value and all(isinstance(cell, str | list) for cell in value.values()):
        captions = {"image": [*value], "caption": [*value.values()]}
        return pd.DataFrame(captions, dtype=object), "JSON {image: caption}"
    raise ValueError(LAYOUTS)


def _frame(rows: Any) -> pd.DataFrame:
    return pd.DataFrame(rows, dtype=object)  # else a number beside a gap loses digits


def _are_rows(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(row, dict) for row in part)


def _of_lists(lists: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Return the rows of lists, by their names as splits if there are several, as R2Gen has it."""
    parts = [
        _frame([{"split": name} | row for row in rows] if len(lists) > 1 else rows)
        for name, rows in lists.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _of_coco(value: dict[str, Any]) -> pd.DataFrame:
    try:
        files = {image["id"]: image["file_name"] for image in value["images"]}
        pairs = [(files.get(one["image_id"]), one["caption"]) for one in value["annotations"]]
    except KeyError as error:
        raise ValueError(f"it looks like COCO's layout, but lacks {error}") from error
    except TypeError as error:
        raise ValueError("its `images` and `annotations` are not lists of objects") from error
    return pd.DataFrame(pairs, columns=["file_name", "caption"], dtype=object)


def _json_lines(text: str, otherwise: ValueError) -> list[Any]:
    """Return the object of each line; raise `otherwise` if not even the first line is one."""
    values: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") if values else otherwise from error
    return values
