"""Reads tables of images and captions in any usual format."""

from __future__ import annotations

import csv
import functools
import io
import itertools
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
MISFIT = "\0 misfit"  # a column: the number of a line that has more fields than the header, else 0


@dataclass
class Table:
    """A table of texts, and what its columns are taken for."""

    path: Path
    how: str  # it was read, such as "separator ';', encoding cp1252"
    rows: pd.DataFrame  # str, one row per caption
    roles: dict[str, list[str]]  # the columns that may have each role, the best first
    misfits: pd.Series  # int, as in MISFIT
    places: pd.Series  # str, such as "line 7"
    sheet: str = ""  # of a workbook
    further: list[str] = field(default_factory=list)  # columns of image files, of other names
    files: list[str] = field(default_factory=list)  # those that its names may mean
    more: list[Table] = field(default_factory=list)  # further parts of it, in `rows` as well
    named: frozenset[str] = frozenset()  # roles whose column a person named
    merged: Path | None = None  # the table that its captions are from

    def __str__(self) -> str:
        used = {role: columns[0] for role, columns in self.roles.items() if columns}
        roles = ", ".join(f"{role} = {column!r}" for role, column in used.items())
        parts = [f"{part.sheet or part.path} ({part.how})" for part in self.more[:2]]
        parts += ["…"] if self.more[2:] else []
        more = f". NOTE: read as one with it: {', '.join(parts)}" if parts else ""
        return f"{self.path}: {len(self.rows):,} rows; {roles}; {self.how}{more}"


def sheets_of(path: Path) -> list[str]:
    """Return the names of a workbook's sheets, and [""] for all other files."""
    try:
        return pd.ExcelFile(path).sheet_names if path.suffix.lower().startswith(".xls") else [""]
    except Exception:  # `read_table` says what is wrong with it
        return [""]


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
        reader = functools.partial(_read_excel, sheet=sheet) if sheet else reader
        rows, how = reader(path, named if valid else {})
        rows.columns = [str(column).strip() for column in rows.columns]
        if PLACE not in rows:
            rows[PLACE] = np.arange(1, len(rows) + 1)
        rows, note, roles, further = _with_roles(rows, named if valid else {}, required)
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
    return Table(path, how, rows, roles, misfits, places, sheet, further, named=frozenset(named))


def _with_roles(
    rows: pd.DataFrame, named: dict[str, str], required: Sequence[str]
) -> tuple[pd.DataFrame, str, dict[str, list[str]], list[str]]:
    """Return a row per image and caption, a note, the columns' roles, and `Table.further`."""
    roles, notes = find_columns(rows.columns, named), ""
    roles["caption"] = _with_text(rows, roles["caption"])
    for column in roles["caption"]:
        notes = unused(rows.columns, column, "caption" in named)
        rows, note = captions_of(rows.loc[:, ~rows.columns.duplicated()], column)
        notes += note
    rows = rows.loc[:, ~rows.columns.duplicated()]
    further = file_columns(rows, [*itertools.chain(*roles.values()), PLACE, MISFIT])
    further = [] if "image" in named else further
    roles["image"] = roles["image"] or further[:1] * (len(further) == 1)
    roles["image"] = _naming(rows, roles["image"], "image" in required)
    for column in roles["image"][:1]:
        rows = by_image(rows, column)
    return rows, notes, roles, further


def _with_text(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """Return the first of the columns that are not nearly empty beside the fullest, as a list."""
    counts = {}
    for column in columns:
        cells = rows.loc[:, rows.columns == column].iloc[:, 0]
        texts = cells.map(lambda cell: isinstance(cell, (list, np.ndarray)) or text_of(cell) != "")
        counts[column] = int(texts.sum())
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
    head = [n for n, line in enumerate(lines) if line.strip() and not line.startswith(HINT)][:5]
    top = [lines[n].removesuffix(END) for n in head]
    cells = {s: [next(csv.reader([line], delimiter=s)) for line in top] for s in ",;\t|"}
    headers = {s: rows[header_at(rows, named)] for s, rows in cells.items()}
    separator = max(headers, key=lambda s: (recognised(headers[s], named), len(headers[s])))
    skipped = header_at(cells[separator], named)
    start = head[skipped]
    lines[:start] = ["\n"] * start if skipped else lines[:start]  # so that line numbers stay
    parse = partial(csv.reader, delimiter=separator)
    parse = partial(parse, skipinitialspace=_is_spaced(top[skipped:], separator, parse))
    header = [" ".join(c.split()) for c in _whole_header(lines[start:], parse) if c != END]
    written = len(header)
    while header and not header[-1]:
        header.pop()
    double_quotes(lines, parse, len(header))
    closed = close_quotes(lines, parse, header, find_columns(header, named)["image"])
    numbered = [(begin + 1, row) for begin, _, row in records_of(lines, parse)]
    if numbered[-1][1] != [END]:
        raise ValueError(f"a quote is never closed, in line {numbered[-1][0]}")
    if written == len(header) and _has_row_names(header, [row for _, row in numbered[1:-1]]):
        header = ["", *header]
    width, caption_last = len(header), find_columns(header, named)["caption"][:1] == header[-1:]
    rows, joined, uneven = [], 0, len({len(row) for _, row in numbered[1:-1]}) > 1
    for line, row in numbered[1:-1]:
        if len(row) == 1 < width and len(again := next(parse(row), [])) == width:
            row = again  # a whole line in quotes, as a program for `;` writes it
        misfit = any(cell.strip() for cell in row[width:])
        if uneven and not caption_last and len(row) > max(written, width):
            misfit |= any(cell.startswith(" ") for cell in row)  # after a comma of a text
        if misfit and caption_last:  # a caption with unquoted separators
            row, misfit = [*row[: width - 1], separator.join(row[width - 1 :])], False
            joined += 1
        rows.append([*(row + [""] * width)[:width], line, line if misfit else 0])
    how = f"separator {separator!r}, encoding {encoding}{_example(text, encoding)}"
    how += BELOW.format(start + 1) if skipped else ""
    how += f". NOTE: {joined:,} captions have the separator without quotes" if joined else ""
    how += f". NOTE: stray quotes in lines {closed} are ignored" if closed else ""
    return pd.DataFrame(rows, columns=[*header, PLACE, MISFIT], dtype=object), how


def _is_spaced(lines: list[str], separator: str, parse: Callable) -> bool:
    """Return whether quotes after a space are quotes: in a header, or if rows fit by that alone."""
    as_written, spaced = (
        {len(row) for row in parse(lines, skipinitialspace=skipped)} for skipped in (False, True)
    )
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
    return rows_of_json(path.read_text("utf-8-sig"), lambda names: recognised(names, named) > 0)


def _read_excel(path: Path, named: dict[str, str], sheet: str = "") -> tuple[pd.DataFrame, str]:
    chosen = [sheet] if sheet else None  # None for all
    options = {"sheet_name": chosen, "header": None, "dtype": object, "keep_default_na": False}
    sheets = pd.read_excel(path, **options)
    sheets = {name: sheet.map(unescaped) for name, sheet in sheets.items()}
    grids = {name: sheet[(sheet != "").any(axis=1)] for name, sheet in sheets.items()}
    tops = {name: [[*map(str, row)] for row in grid[:5].values] for name, grid in grids.items()}
    at = {name: header_at(top, named) for name, top in tops.items()}
    headers = {name: (*top[at[name] :], [])[0] for name, top in tops.items()}
    name = max(headers, key=lambda name: recognised(headers[name], named))
    rows = grids[name][at[name] + 1 :].set_axis(headers[name], axis=1)
    rows = rows.loc[:, [column.strip() != "" for column in headers[name]]]
    note = BELOW.format(grids[name].index[at[name]] + 1) if at[name] else ""
    return rows.assign(**{PLACE: rows.index + 1}).reset_index(drop=True), f"sheet {name!r}{note}"


READERS: dict[str, Callable[[Path, dict[str, str]], tuple[pd.DataFrame, str]]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".psv"), _read_text),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    **dict.fromkeys((".xlsx", ".xlsm"), _read_excel),
    ".parquet": lambda path, named: (pd.read_parquet(path), "Parquet"),
}
