"""Reads tables of images and captions in any usual format, and finds the files that they name."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError, first_line

# Usual names of columns, the best first, without case, spaces, `_` and `-`
USUAL = {
    "image": "name image images img imagefile imgfile imagepath imgpath imagename imgname"
    " imagefilename filename file filepath path fname picture scan bild bildname datei dateiname"
    " imageid imgid dicomid dicom id",
    "caption": "caption captions report reporttext radiologyreport text findings finding"
    " impression description comment sentence befund beschreibung",
    "split": "split set subset fold partition",
    "patient": "patient patientid subject subjectid person case caseid study studyid",
}
EXTENSION = re.compile(
    r"(?<=[^/])\.(bmp|dcm|dicom|gif|jfif|jpe|jpeg|jpg|pbm|pgm|png|pnm|ppm|tif|tiff|webp)$", re.I
)  # of images
SIGNS = set("°±µ²³¹·×÷¼½¾§©®™«»‘’‚“”„†•…–—€")  # what English texts in Windows-1252 have
WINDOWS = {  # supersets, with more signs of the same language
    "iso-8859-1": "cp1252", "iso-8859-9": "cp1254", "shift_jis": "cp932", "gb2312": "gb18030",
}  # fmt: skip
END = "\0 end"  # a row of its own, unless a quote before it was never closed


@dataclass
class Table:
    """A table of texts, and what its columns are taken for."""

    path: Path
    how: str  # it was read, such as "separator ';', encoding cp1252"
    rows: pd.DataFrame  # str, one row per caption
    roles: dict[str, list[str]]  # "image": columns that may name it; the others: the column, if any
    misfits: pd.Series  # int, the line of a row that has more fields than the header, else 0

    def __str__(self) -> str:
        used = {role: columns[0] for role, columns in self.roles.items() if columns}
        roles = ", ".join(f"{role} = {column!r}" for role, column in used.items())
        return f"{self.path}: {len(self.rows):,} rows, {self.how}; {roles}"


def read_table(path: Path, columns: str = "") -> Table:
    """Read a table by its extension, one of `READERS`; nothing in it is executed.

    `columns` names columns as in "image=scan, caption=befund"; the others are found by `USUAL`.
    Lists of captions become a row each. Raises a UserError if the file is not such a table, or has
    no column for images or captions.
    """
    named = _named(columns)
    try:
        rows, how, misfits = READERS[path.suffix.lower()](path, named)
        rows.columns = [str(column).strip() for column in rows.columns]
        rows = rows.loc[:, ~rows.columns.duplicated()].astype(object)
        roles = find_columns(rows.columns, named)
        rows["_misfit"] = misfits
        for column in roles["caption"]:
            rows = rows.explode(column, ignore_index=True)
        misfits = rows.pop("_misfit")
        rows = rows.apply(lambda values: values.map(_text)).astype(object)
    except ImportError as error:
        raise UserError(f"{path} needs a package ({error}). Install it, or save a CSV.") from error
    except UserError:
        raise
    except Exception as error:  # zipfile, openpyxl, Arrow and pandas each raise their own kinds
        raise UserError(
            f"{path} is not a readable table ({first_line(error)}). Mend it, or save it as a CSV "
            "in UTF-8."
        ) from error
    missing = [role for role in ("image", "caption") if not roles[role]]
    missing += [role for role in named if not roles[role]]
    if missing:
        raise UserError(
            f"{path} has the columns {list(rows.columns)} ({how}), but no {missing[0]} column"
            f"{f' {named[missing[0]]!r}' if missing[0] in named else ''}. Name it by COLUMNS, such "
            "as COLUMNS = 'image=scan, caption=report'."
        )
    return Table(path, how, rows, roles, misfits)


def _named(columns: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in columns.split(",") if pair.strip()]
    named = {role.strip().lower(): column.strip() for role, _, column in pairs}
    if not set(named) <= set(USUAL) or not all(named.values()):
        raise UserError(
            f"COLUMNS must be like 'image=scan, caption=report', of {', '.join(USUAL)}; "
            f"got {columns!r}."
        )
    return named


def find_columns(header: Sequence[str], named: dict[str, str]) -> dict[str, list[str]]:
    """Return for each role the columns that may have it, the best first; of most roles only one."""
    plain = {column: re.sub(r"[\W_]", "", column).casefold() for column in header}
    roles: dict[str, list[str]] = {}
    for role, usual in USUAL.items():
        if wanted := named.get(role):
            found = [column for column in header if column == wanted]
            found = found or [c for c in header if c.casefold() == wanted.casefold()]
        else:
            free = {plain[c]: c for c in reversed(header) if c not in named.values()}
            found = [free[name] for name in usual.split() if name in free]
        roles[role] = found if role == "image" else found[:1]
    return roles


def _recognised(header: Sequence[str], named: dict[str, str]) -> int:
    return sum(map(bool, find_columns(header, named).values()))


def _text(value: Any) -> str:
    """Return a cell as text: whole numbers without `.0`, "" for what is missing or no text."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = str(value) if pd.api.types.is_scalar(value) and not pd.isna(value) else ""
    text.encode()  # half a surrogate pair could not be written later: a ValueError
    return text


def decode(path: Path) -> tuple[str, str]:
    """Return a text file's text, and how it is encoded."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), "utf-16"
    if b"\0" in content:  # no text of one byte per letter has zeros
        encoding = _detected(content)
        return content.decode(encoding), encoding
    lines = content.splitlines(keepends=True)
    foreign = [line for line in lines if not line.isascii()]
    odd = [line for line in foreign if not _is_utf8(line)]
    if not odd:
        return content.decode("utf-8-sig"), "UTF-8"
    if len(odd) >= len(foreign) / 2:
        encoding = _detected(b"".join(foreign))
        return content.decode(encoding), encoding
    encoding = _detected(b"".join(odd))
    texts = [line.decode("utf-8" if _is_utf8(line) else encoding) for line in lines]
    return "".join(texts).removeprefix("\ufeff"), f"UTF-8, but {len(odd)} lines {encoding}"


def _is_utf8(content: bytes) -> bool:
    try:
        return content.decode() is not None
    except UnicodeDecodeError:
        return False


def _detected(content: bytes) -> str:
    signs = {sign for sign in content.decode("cp1252", "replace") if not sign.isascii()}
    if signs and signs <= SIGNS:
        return "cp1252"  # a few signs tell a detector nothing
    import chardet

    encoding = chardet.detect(content)["encoding"]
    if not encoding:
        raise ValueError("its encoding is unknown")
    encoding = encoding.lower().replace("windows-", "cp")
    return WINDOWS.get(encoding, encoding)


def _read_text(path: Path, named: dict[str, str]) -> tuple[pd.DataFrame, str, list[int]]:
    text, encoding = decode(path)
    text = re.sub(r"\r\n?", "\n", text)
    whole, text = text, re.sub(r"\A\n*(sep=.\n)?\n*", "", text)  # Excel's hint, and empty lines
    above = whole.count("\n") - text.count("\n")
    first = text.split("\n", 1)[0]
    headers = {
        separator: [c.strip() for c in next(csv.reader([first], delimiter=separator), [])]
        for separator in ",;\t|"
    }
    separator = max(headers, key=lambda s: (_recognised(headers[s], named), len(headers[s])))
    file = io.StringIO(f"{text}\n{END}", newline="")
    spaced = f'{separator} "' in first  # quotes after a space are quotes
    reader = csv.reader(file, delimiter=separator, skipinitialspace=spaced)
    numbered = [(above + reader.line_num, row) for row in reader if row]
    if numbered.pop()[1] != [END]:
        raise ValueError("a quote is never closed")
    header = [column.strip() for column in (numbered or [(1, [""])])[0][1]]
    while header and not header[-1]:
        header.pop()
    width, caption_last = len(header), find_columns(header, named)["caption"] == header[-1:]
    rows, misfits = [], []
    for line, row in numbered[1:]:
        longer = any(cell.strip() for cell in row[width:])
        if longer and caption_last:  # a caption with unquoted separators
            row = [*row[: width - 1], separator.join(row[width - 1 :])]
        rows.append((row + [""] * width)[:width])
        misfits.append(line if longer and not caption_last else 0)
    how = f"separator {separator!r}, encoding {encoding}"
    return pd.DataFrame(rows, columns=header, dtype=object), how, misfits


def _read_json(path: Path, named: dict[str, str]) -> tuple[pd.DataFrame, str, list[int]]:
    text, encoding = decode(path)
    lines = [line for line in text.split("\n") if line.strip()]
    one = text.lstrip().startswith("[")
    records = json.loads(text) if one else [json.loads(line) for line in lines]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError('each entry must be like {"image": …, "caption": …}')
    how = f"JSON {'list' if one else 'lines'}, encoding {encoding}"
    return pd.DataFrame(records, dtype=object), how, [0] * len(records)


def _read_excel(path: Path, named: dict[str, str]) -> tuple[pd.DataFrame, str, list[int]]:
    sheets = pd.read_excel(path, sheet_name=None, dtype=object, keep_default_na=False)

    name = max(sheets, key=lambda name: _recognised([*map(str, sheets[name])], named))
    return sheets[name], f"sheet {name!r}", [0] * len(sheets[name])


def _read_parquet(path: Path, named: dict[str, str]) -> tuple[pd.DataFrame, str, list[int]]:
    rows = pd.read_parquet(path)
    return rows, "Parquet", [0] * len(rows)


Reader = Callable[[Path, dict[str, str]], tuple[pd.DataFrame, str, list[int]]]
READERS: dict[str, Reader] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".psv"), _read_text),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    **dict.fromkeys((".xlsx", ".xlsm"), _read_excel),
    ".parquet": _read_parquet,
}


def without_extension(name: str) -> str:
    """Return a file's name or path without its extension, if that is one of images'."""
    return EXTENSION.sub("", name)


def match_files(names: pd.Series, files: Sequence[str]) -> pd.Series:
    """Return for each name of a table a list of the `files` that it may mean: none, one or several.

    `files` are relative paths with `/`. Names may lack the extension or folders, have more folders
    in front, `\\` for `/`, another case, or be numbers without leading zeros.
    """
    known, index = set(files), defaultdict(set)
    for file in [] if names.isin(known).all() else files:  # seconds for ROCO
        for start in range(len(parts := file.split("/"))):
            tail = ("" if start else "/") + "/".join(parts[start:])  # "/" before a whole path
            low = _folded(tail)
            stem = without_extension(low)
            for key in (f"={tail}", low, f"{stem}.*", _number(stem)):
                index[key].add(file)

    def find(name: str) -> list[str]:
        parts = [p for p in name.strip().replace("\\", "/").split("/") if p not in ("", ".")]
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        for tail in [f"/{ends[0]}", ends[0], *(f"/{end}" for end in ends[1:])] if ends else []:
            low = _folded(tail)
            for key in (f"={tail}", low, f"{low}.*", without_extension(low), _number(low)):
                if key in index:
                    return sorted(index[key])
        return []

    found = {name: [name] if name in known else find(name) for name in names.unique()}
    bare = {name: re.split(r"[\\/]", name)[-1] for name in found}
    if not any(found.values()) and len(set(bare.values())) == len(bare):
        found = {name: find(bare[name]) for name in found}  # the folders are another computer's
    return names.map(found)


def _folded(name: str) -> str:
    return normalize("NFC", name).casefold()


def _number(name: str) -> str:
    """Return a file's number as spreadsheets show it, `#7` for `007` and `7.0`, or else "#"."""
    match = re.fullmatch(r"(.*/)?0*(\d+)(\.0)?", name)
    return f"{match[1] or ''}#{match[2]}" if match else f"{name}#"
