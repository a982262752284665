"""Makes one table of several: parts with the same columns, or captions and names with one key."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption.data.columns import SENTENCE, plain
from roco_caption.data.names import match_files
from roco_caption.data.tables import Table

APART = re.compile(  # words in the name of a sheet or file that is probably not meant
    r"exclu|reject|remov|discard|delet|dupli|to-?do|templat|exampl|draft|unclear|invalid|usable"
    r"|archiv|backup|ausschl|ausge?sch|aussort|vorlage|muster|beispiel|entwurf|unbrauch|unklar|papierk"
    r"|dublett", re.I
)  # fmt: skip
APART_IN_PATHS = re.compile(r"(?<![a-z])(?:old|not|non|bad|alt|offen)(?![a-z])", re.I)
APART_IN_SHEETS = re.compile(  # but not "Non-contrast" and "Old fracture"
    r"(?<![a-z])(?:(?:do )?(?:not|non)[-_ ]?(?:to |for )?(?:us|read|diagn|elig|incl|approv)"
    r"|(?:old|not|non|bad|alt|offen)$|(?:not|offen)(?![a-z])"
    r"|bad[-_ ]*(?:qual|imag|bild|scan|case|data|film)"
    r"|(?:old|alt)[-_ ]*(?:data|daten|case|capt|report|version|list|table|\(|\d))", re.I
)  # fmt: skip
SHARED = 0.1  # of the images of two parts of one table, at most
KEY = re.compile(r".+(?:id|no|nr|number)|accession")  # the plain name of a column; not "id" alone
COUNTER = re.compile(r"(?:sl|sr|serial|lfd|lauf\w*|row|line|index|record)(?:id|no|nr|number)")


def is_apart(sheet: str, path: str) -> bool:
    """Return whether the name of a sheet, else of a file, says that it is not meant."""
    more = APART_IN_SHEETS if sheet else APART_IN_PATHS
    return any(names.search(sheet or path) for names in (APART, more))


def is_meant(table: Table, folder: Path) -> tuple[bool, bool]:
    """Return whether a table's name says nothing against it, and its captions are no labels."""
    texts = table.rows[table.roles["caption"][0]]
    words = texts.str.split().str.len().mean()
    differ = 2 * texts.nunique() > len(texts)
    apart = is_apart(table.sheet, table.path.name)  # a folder called archive is an unpacked one
    folders = "" if table.sheet else table.path.relative_to(folder).parent.as_posix()
    return not (apart or APART_IN_PATHS.search(folders)), words >= SENTENCE or differ


def joined(tables: list[Table], folder: Path) -> list[Table]:
    """Return the tables; those with the same columns and different images become one.

    These are sheets of a workbook, tables of one name in several folders, and numbered parts. All
    stay as they are if one of them names every image that the others name.
    """
    whole = set().union(*(table.images for table in tables))
    if any(table.images == whole for table in tables):
        return tables
    groups: dict[Any, list[Table]] = {}
    for k, table in enumerate(tables):
        series: Any = re.sub(r"\d+", "", table.path.name)
        if table.texts or table.sheet:
            series = table.texts or table.path
        roles = tuple(plain((*columns, "")[0]) for columns in table.roles.values())
        key: Any = (series, table.split, roles, *sorted(map(plain, table.rows)))
        other = all(_apart(table.images, part.images) for part in groups.get(key, []))
        where = table.path.relative_to(folder).as_posix()
        if not table.images or not other or is_apart(table.sheet, where):
            key = k
        groups.setdefault(key, []).append(table)
    return [_as_one(parts, folder) if len(parts) > 1 else parts[0] for parts in groups.values()]


def _apart(some: set[str], others: set[str]) -> bool:
    return len(some & others) <= SHARED * min(len(some), len(others))


def _as_one(parts: list[Table], folder: Path) -> Table:
    """Return tables as one; each name still means the file that it meant in its own table."""
    own = [part.path.parent.relative_to(folder).as_posix() for part in parts]
    (image,), header = parts[0].roles["image"], sorted(parts[0].rows, key=plain)
    rows, places = [], []
    for part, place in zip(parts, own, strict=True):
        same = dict(zip(sorted(part.rows, key=plain), header, strict=True))
        renamed = part.rows.rename(columns=same)
        if len(set(own)) > 1:  # the same name may mean another file
            found = match_files(renamed[image], part.files)
            written = renamed[image] if place == "." else f"{place}/" + renamed[image]
            single = found.map(lambda files: files[0] if len(files) == 1 else None)
            renamed = renamed.assign(**{image: single.fillna(written)})
        rows.append(renamed)
        places.append(part.places + f" of {part.sheet or part.path.relative_to(folder)}")
    others = [f"{part.sheet or part.path} ({part.how})" for part in parts[1:3]]
    others += ["…"] if len(parts) > 3 else []
    return replace(
        parts[0], how=f"{parts[0].how}. NOTE: read as one with it: {', '.join(others)}",
        rows=pd.concat(rows, ignore_index=True),
        files=[*dict.fromkeys(file for part in parts for file in part.files)],
        images=set().union(*(part.images for part in parts)),
        places=pd.concat(places, ignore_index=True),
        misfits=pd.concat([part.misfits for part in parts], ignore_index=True),
    )  # fmt: skip


def report_roles(table: Table, others: Sequence[Table]) -> None:
    """Print which tables may have patients or splits of a table's images, if it has none."""
    for role, other in itertools.product(("patient", "split"), others):
        if table.roles[role] or not (other.roles["image"] and other.roles[role]):
            continue
        named = match_files(other.rows[other.roles["image"][0]], table.files)
        images = {one[0] for one in named if len(one) == 1}
        if 2 * len(images & table.images) > len(table.images):
            places = [f"{each.path} {each.sheet}".strip() for each in (other, table)]
            print(f"NOTE: {places[0]} may have the {role} of each image, in its column "
                  f"{other.roles[role][0]!r}. If so, add that column to {places[1]}.")  # fmt: skip


def merged(names: Table, texts: Table) -> Table | None:
    """Return the images of one table with the captions of another, joined by a column of both.

    None unless exactly one column of ids has a different value in each row of `texts`.
    """
    image, caption = names.roles["image"][0], texts.roles["caption"][0]
    known = texts.rows[texts.misfits == 0]
    both = [
        column for column in names.rows.columns.intersection(known.columns)
        if KEY.fullmatch(plain(column)) and not COUNTER.fullmatch(plain(column))
        and column not in (image, caption)
        and known[column].is_unique and names.rows[column].isin(known[column]).mean() > 0.9
    ]  # fmt: skip
    if len(both) != 1:
        return None
    other = known.drop(columns=names.rows.columns.drop(both[0]), errors="ignore")
    rows = names.rows.merge(other, "left", on=both[0]).fillna("")
    roles = {"image": [image], "caption": [caption]}
    for role, keys in (("split", []), ("patient", both)):
        roles[role] = [*dict.fromkeys(names.roles[role] + texts.roles[role] + keys)]
    how = f"{names.how}; captions of {texts.path}, joined by column {both[0]!r}"
    return replace(names, rows=rows, how=how, roles=roles, texts=frozenset({texts.path}))
