"""Makes one table of several: parts with the same columns, or captions and names with one key."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption.data.columns import plain
from roco_caption.data.names import match_files
from roco_caption.data.tables import Table

APART = re.compile(  # words in the name of a sheet or file that is probably not meant
    r"exclu|reject|remov|discard|delet|dupli|to-?do|templat|exampl|draft|unclear|invalid|usable"
    r"|archiv|backup|ausschl|ausge?sch|aussort|vorlage|muster|beispiel|entwurf|unbrauch|unklar|papierk"
    r"|dublett|(?<![a-z])(?:old|not|non|bad|alt|offen)(?![a-z])", re.I
)  # fmt: skip
NEARLY_ALL = 0.9  # of a table's images
KEY = re.compile(r".+(?:id|no|nr|number)|accession")  # the plain name of a column; not "id" alone
COUNTER = re.compile(r"(?:sl|sr|serial|lfd|lauf\w*|row|line|index|record)(?:id|no|nr|number)")


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
        other = all(table.images.isdisjoint(part.images) for part in groups.get(key, []))
        where = table.sheet or table.path.relative_to(folder).as_posix()
        if not table.images or not other or APART.search(where):
            key = k
        groups.setdefault(key, []).append(table)
    return [_as_one(parts, folder) if len(parts) > 1 else parts[0] for parts in groups.values()]


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


def completed(table: Table, others: Sequence[Table]) -> Table:
    """Return a table with the patients and the splits that another one has for nearly all images.

    Only those that it lacks itself, and that the other has once for each image.
    """
    found = match_files(table.rows[table.roles["image"][0]], table.files)
    files = found.map(lambda one: one[0] if len(one) == 1 else "")
    for role, other in itertools.product(("patient", "split"), others):
        if table.roles[role] or not (other.roles["image"] and other.roles[role]):
            continue
        column = other.roles[role][0]
        named = match_files(other.rows[other.roles["image"][0]], table.files)
        pairs = [(one[0], value) for one, value in zip(named, other.rows[column], strict=True)
                 if len(one) == 1]  # fmt: skip
        values = dict(pairs)
        if len({*pairs}) > len(values) or files.isin(values).mean() < NEARLY_ALL:
            continue
        print(f"NOTE: column {column!r} of {other.path} says the {role} of each image.")
        rows = table.rows.assign(**{column: files.map(values).fillna("")})
        roles, texts = table.roles | {role: [column]}, table.texts | {other.path}
        table = replace(table, rows=rows, roles=roles, texts=texts)
    return table


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
