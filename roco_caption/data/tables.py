"""Reads tables of images and captions in any usual format."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError, first_line, shown
from roco_caption.data.cells import (
    PLACE,
    by_image,
    captions_of,
    holds_images,
    text_of,
    unescaped,
)
from roco_caption.data.columns import (
    USUAL,
    file_columns,
    find_columns,
    header_at,
    longer_texts,
    recognised,
    remedy_for,
    unused,
)
from roco_caption.data.encodings import decode
from roco_caption.data.json_rows import rows_of_json
from roco_caption.data.names import EXTENSION
from roco_caption.data.quotes import END, HINT, close_quotes, double_quotes, records_of

UNREAD = (".xls", ".xlsb", ".ods", ".numbers")  # tables that would need further packages
BELOW = ". NOTE: row {} names the columns; those above it are not read"
csv.field_size_limit(2**31 - 1)  # characters: a stray quote may swallow a whole table
MISFIT = "\0 misfit"  # a column: the number of a line that has more fields than the header, else 0


@dataclass(eq=False)  # compared by identity
class Table:
    """A table of texts, and what its columns are taken for."""

    path: Path
    how: str  # it was read, such as "separator ';', encoding cp1252"
    rows: pd.DataFrame  # str, one row per caption
    roles: dict[str, list[str]]  # the columns that may have each role, the best first
    misfits: pd.Series  # int, as in MISFIT
    places: pd.Series  # str, such as "line 7"
    sheet: str = ""  # of a workbook
    fixed: frozenset[str] = frozenset()  # roles whose column a person named
    split: str = ""  # that its sheet or path names
    files: list[str] = field(default_factory=list)  # those that its names may mean
    images: set[str] = field(default_factory=set)  # those of them that they mean
    texts: frozenset[Path] = frozenset()  # what its captions are from, if that is another file

    def __str__(self) -> str:
        used = {role: columns[0] for role, columns in self.roles.items() if columns}
        roles = ", ".join(f"{role} = {column!r}" for role, column in used.items())
        return f"{self.path}: {len(self.rows):,} rows; {roles}; {self.how}"


def sheets_of(path: Path) -> list[str]:
    """Return the names of a workbook's sheets, and [""] for all other files."""
    try:
        return pd.ExcelFile(path).sheet_names if path.suffix.lower().startswith(".xls") else [""]
    except Exception:  # `read_table` says what is wrong with it
        return [""]


@pd.option_context("mode.string_storage", "python")  # Arrow refuses half a surrogate pair
def read_table(
    path: Path, columns: str = "", sheet: str = "", required: Sequence[str] = ("image", "caption")
) -> Table:
    """Read a table by its extension, one of `READERS`; lists of captions become a row each.

    `sheet` is that of a workbook, "" for the one whose columns are recognised best.
    `columns` names columns as in "image=scan, caption=befund"; the others are found by `USUAL`.
    Raises a UserError if the file is not such a table, or lacks a `required` column, or one of
    `columns` if any is required.
    """
    pairs = [pair.partition("=") for pair in columns.split(",") if pair.strip()]
    named = {role.strip().lower(): column.strip() for role, _, column in pairs}
    valid = set(named) <= set(USUAL) and all(named.values())
    try:
        if path.suffix.lower() in UNREAD:
            raise ValueError(f"the format {path.suffix} is not supported")
        reader = READERS[path.suffix.lower()]
        reader = partial(_read_excel, sheet=sheet) if sheet else reader
        rows, how = reader(path, named if valid else {})
        rows.columns = [str(column).strip() for column in rows.columns]
        if PLACE not in rows:
            rows[PLACE] = np.arange(1, len(rows) + 1)
        rows, note, roles = _with_roles(rows, named if valid else {}, required)
        how += note
        places = ("line " if MISFIT in rows else "row ") + rows.pop(PLACE).astype(str)
        misfits = rows.pop(MISFIT) if MISFIT in rows else pd.Series(0, rows.index)
        rows = rows.map(text_of).astype(object)
    except Exception as error:  # zipfile, openpyxl, Arrow and pandas each raise their own kinds
        raise UserError(
            f"{path} is not a readable table ({first_line(error)}). Mend it, or save it as a CSV "
            "in UTF-8 or as .xlsx."
        ) from error
    lacking = [role for role in (*required, *named) if not roles.get(role)] if required else []
    if lacking or not valid:
        name = f" {named[lacking[0]]!r}" if lacking and lacking[0] in named else ""
        problem = f"but no {lacking[0]} column{name}" if valid else f"and COLUMNS is {columns!r}"
        raise UserError(
            f"{path} has the columns {shown(rows.columns)} ({how}), {problem}. The first row must "
            f"name the columns. {remedy_for(rows, required)}."
        )
    return Table(path, how, rows, roles, misfits, places, sheet, frozenset(named))


def _with_roles(
    rows: pd.DataFrame, named: dict[str, str], required: Sequence[str]
) -> tuple[pd.DataFrame, str, dict[str, list[str]]]:
    """Return a row per image and caption, a note, and the columns' roles."""
    header, note = [*rows.columns], ""
    rows = rows.loc[:, ~rows.columns.duplicated()]
    roles = find_columns(header, named)
    roles["caption"] = _with_text(rows, roles["caption"])
    if roles["caption"]:
        caption = roles["caption"][0]
        rows, odd = captions_of(rows, caption)
        note = unused(header, caption, "caption" in named) + odd
        if not (note or "caption" in named):
            note = longer_texts(rows, caption, itertools.chain(*roles.values()))
    if not roles["image"] and "image" not in named:
        files = file_columns(rows, itertools.chain(*roles.values()))
        roles["image"] = files if len(files) == 1 else []
    roles["image"] = _naming(rows, roles["image"], "image" in required)
    if roles["image"]:
        rows = by_image(rows, roles["image"][0])
    return rows, note, roles


def _with_text(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """Return the first of the columns that are not nearly empty beside the fullest, as a list."""
    counts = {}
    for column in columns:
        lists = rows[column].map(lambda cell: isinstance(cell, list | np.ndarray))
        counts[column] = int((lists | (rows[column].map(text_of) != "")).sum())
    return [column for column in columns if 10 * counts[column] >= max(counts.values())][:1]


def _naming(rows: pd.DataFrame, columns: list[str], required: bool) -> list[str]:
    """Return those of the columns that hold names; a ValueError says if images are in the table."""
    held = [name for name in columns if holds_images(rows[name])]
    if required and held == columns != []:
        raise ValueError(f"the images are in its column {held[0]!r}; save them as files")
    return [name for name in columns if name not in held]


def _read_text(path: Path, named: dict[str, str]) -> tuple[pd.DataFrame, str]:
    text, encoding = decode(path)
    lines = io.StringIO(f"{text}\n{END}", newline=None).readlines()
    separator, start, is_below, top = _header_of(lines, named)
    if is_below:
        lines[:start] = ["\n"] * start  # so that line numbers stay
    parse = partial(csv.reader, delimiter=separator)
    parse = partial(parse, skipinitialspace=_is_spaced(top, separator, parse))
    header = [" ".join(c.split()) for c in _whole_header(lines[start:], parse) if c != END]
    written = len(header)
    while header and not header[-1]:
        header.pop()
    double_quotes(lines, parse, len(header))
    closed = close_quotes(lines, parse, header, find_columns(header, named)["image"])
    records = records_of(lines, parse)
    if records[-1][2] != [END]:
        raise ValueError(f"a quote is never closed, in line {records[-1][0] + 1}")
    numbered = [(begin + 1, row) for begin, _, row in records[1:-1]]
    body = [row for _, row in numbered]
    if written == len(header) and _has_row_names(header, body):
        header = ["", *header]
    width, caption_last = len(header), find_columns(header, named)["caption"][:1] == header[-1:]
    uneven = len({*map(len, body)}) > 1
    most = max(written, width) if uneven and not caption_last else math.inf
    rows, joined = [], 0
    for line, row in numbered:
        if len(row) == 1 < width and len(again := next(parse(row), [])) == width:
            row = again  # a whole line in quotes, as a program for `;` writes it
        misfit = any(cell.strip() for cell in row[width:])
        if misfit and caption_last:  # a caption with unquoted separators
            row, misfit = [*row[: width - 1], separator.join(row[width - 1 :])], False
            joined += 1
        elif len(row) > most:
            misfit |= any(cell.startswith(" ") for cell in row)  # after a comma of a text
        rows.append([*(row + [""] * width)[:width], line, line if misfit else 0])
    how = f"separator {separator!r}, encoding {encoding}{_example(text, encoding)}"
    how += BELOW.format(start + 1) if is_below else ""
    how += f". NOTE: {joined:,} captions have the separator without quotes" if joined else ""
    how += f". NOTE: stray quotes in lines {closed} are ignored" if closed else ""
    return pd.DataFrame(rows, columns=[*header, PLACE, MISFIT], dtype=object), how


def _header_of(lines: list[str], named: dict[str, str]) -> tuple[str, int, bool, list[str]]:
    """Return the separator, the header's place, whether rows are above it, and the first lines."""
    head = [n for n, line in enumerate(lines) if line.strip() and not line.startswith(HINT)][:5]
    top = [lines[n].removesuffix(END) for n in head]
    cells = {s: [next(csv.reader([line], delimiter=s)) for line in top] for s in ",;\t|"}
    at = {s: header_at(rows, named) for s, rows in cells.items()}
    headers = {s: cells[s][at[s]] for s in cells}
    best = max(headers, key=lambda s: (recognised(headers[s], named), len(headers[s])))
    return best, head[at[best]], at[best] > 0, top[at[best] :]


def _is_spaced(lines: list[str], separator: str, parse: Callable) -> bool:
    """Return whether quotes after a space are quotes: in a header, or if rows fit by that alone."""
    as_written = {len(row) for row in parse(lines)}
    spaced = {len(row) for row in parse(lines, skipinitialspace=True)}
    return f'{separator} "' in lines[0] or len(spaced) < len(as_written)


def _example(text: str, encoding: str) -> str:
    """Return a word as it was read, for a person to judge, if the encoding is a guess."""
    found = re.search(r"\w*[^\x00-\x7f]\w*", text)
    return f" (as in {found[0]!r:.40})" if found and encoding.lower()[:3] != "utf" else ""


def _whole_header(lines: list[str], parse: Callable) -> list[str]:
    """Return the cells of the first row, which may have line breaks in quotes."""
    reader = parse(iter(lines[:5]))
    whole = next(reader)
    return whole if reader.line_num < 5 else next(parse(lines[:1]))


def _has_row_names(header: list[str], rows: list[list[str]]) -> bool:
    """Return whether R wrote the numbers of the rows, which have no name in the header."""
    image = header.index(found[0]) if (found := find_columns(header, {})["image"]) else 0
    if len(rows) < 2 or any(len(row) != len(header) + 1 for row in rows):
        return False
    names, counted = [row[image + 1] for row in rows], [*map(str, range(1, len(rows) + 1))]
    if all(row[0].isdecimal() for row in rows) and all(map(EXTENSION.search, names)):
        return True
    plain = len(set(names)) == len(names) > 3 and not re.search(r"\s", "".join(names))
    return plain and [row[0] for row in rows] == counted and any(row[-1] for row in rows)


def _read_json(path: Path, named: dict[str, str]) -> tuple[pd.DataFrame, str]:
    return rows_of_json(path.read_text("utf-8-sig"), lambda name: recognised([name], named) > 0)


def _read_excel(path: Path, named: dict[str, str], sheet: str = "") -> tuple[pd.DataFrame, str]:
    options = {"header": None, "dtype": object, "keep_default_na": False}
    grids = pd.read_excel(path, sheet_name=[sheet] if sheet else None, **options)
    sheets = {name: _below_header(grid.map(unescaped), named) for name, grid in grids.items()}
    name = max(sheets, key=lambda name: recognised(sheets[name][0].columns, named))
    rows, note = sheets[name]
    return rows, f"sheet {name!r}{note}"


def _below_header(grid: pd.DataFrame, named: dict[str, str]) -> tuple[pd.DataFrame, str]:
    """Return the rows of a sheet below its header, and a note if others are above it."""
    grid = grid[(grid != "").any(axis=1)]
    top = [[*map(str, row)] for row in grid[:5].values] or [[""] * grid.shape[1]]
    at = header_at(top, named)
    rows = grid[at + 1 :].set_axis(top[at], axis=1)
    rows = rows.loc[:, [column.strip() != "" for column in top[at]]]
    rows = rows.assign(**{PLACE: rows.index + 1}).reset_index(drop=True)
    return rows, BELOW.format(grid.index[at] + 1) if at else ""


READERS: dict[str, Callable[[Path, dict[str, str]], tuple[pd.DataFrame, str]]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".psv"), _read_text),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    **dict.fromkeys((".xlsx", ".xlsm"), _read_excel),
    ".parquet": lambda path, named: (pd.read_parquet(path), "Parquet"),
}
