"""Chooses which tables of a folder are read, and by which columns."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import HIDDEN
from roco_caption.data.cells import text_of
from roco_caption.data.encodings import decode
from roco_caption.data.names import match_files, without_extension
from roco_caption.data.splits import split_word
from roco_caption.data.tables import READERS, UNREAD, Table, read_table, sheets_of

MADE = {"caption", "log_probability"}  # columns of a table that a captioner wrote


def tables_in(folder: Path) -> list[Path]:
    """Return the files in a folder, or up to two folders below, that may be tables."""
    paths = (path for level in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(level)))
    tables = {*READERS, *UNREAD}  # `read_table` says what to do with those that it cannot read
    named = [path for path in paths if path.suffix.lower() in tables and path.is_file()]
    return [path for path in named if not HIDDEN.search(path.relative_to(folder).as_posix())]


def split_of(table: Table, folder: Path) -> str:
    """Return the split that a table's sheet or path names, or ""."""
    return split_word(table.sheet) or split_word(table.path.relative_to(folder).as_posix())


def choose_tables(
    folder: Path, files: list[str], columns: str, lists: set[Path]
) -> tuple[list[Table], list[tuple[str, str]]]:
    """Return the table that names most images, by the column that does, or one per split.

    And for each that is not read the split that its path or sheet names, or "", and why; `lists`
    are no tables.
    """
    beside = {(folder / file).with_suffix(".txt"): file for file in files}  # perhaps captions
    places = [path for path in tables_in(folder) if path not in lists and path not in beside]
    tables, problems, unread = _read_all(places, folder, files, columns)
    if not any(named for named, _ in tables):
        texts = _texts_of({path: file for path, file in beside.items() if path.is_file()}, folder)
        tables = texts or _merged_tables(tables, folder, files) or tables
        paths = tuple(f"{table.path} " for _, table in tables)
        unread = [(split, why) for split, why in unread if not why.startswith(paths)]
    if not tables:
        problems += [why for _, why in unread if why not in problems]
        raise UserError(f"{folder} has no table of images and captions. {' '.join(problems[:3])}")
    usual = [pair for pair in tables if not pair[1].how.startswith("JSON {")]  # may be labels
    tables = usual if any(named for named, _ in usual) else tables
    tables = _joined(tables, folder)
    splits = dict.fromkeys(split_of(table, folder) for named, table in tables if named)
    groups = [[pair for pair in tables if split_of(pair[1], folder) == s] for s in splits if s]
    whole = len(groups) < 2 or ("" in splits and "train" not in splits)
    chosen = [_largest(group, folder) for group in ([tables] if whole else groups)]
    for named, table in tables:
        if not any(table is one for one in chosen):
            why = f"{table} ({len(named):,} of the images) is not read."
            unread.append((split_of(table, folder), why))
    return chosen, unread


def _read_all(
    places: list[Path], folder: Path, files: list[str], columns: str
) -> tuple[list[tuple[set[str], Table]], list[str], list[tuple[str, str]]]:
    """Return each table with the files that it names; problems; and what is not read, and why."""
    tables, problems, unread = [], [], []
    for path, sheet in ((place, sheet) for place in places for sheet in sheets_of(place)):
        split = split_word(sheet, alone=True)
        split = split or split_word(path.relative_to(folder).as_posix(), alone=True)
        try:
            table = read_table(path, columns, sheet)
            if table.roles["caption"] == ["caption"] and MADE.issubset(table.rows.columns):
                why = f"{path} has captions that a captioner made, so it is not read. If a person "
                unread.append(("", f"{why}corrected them, remove its column log_probability."))
            else:
                tables.append(_of_files(table, folder, files))
        except UserError as error:
            problems.append(str(error))
            if split or not (sheet or path.suffix.lower() == ".txt"):  # not a legend or README
                unread.append((split, str(error)))
    return tables, problems, unread


def _texts_of(beside: dict[Path, str], folder: Path) -> list[tuple[set[str], Table]]:
    """Return the captions in text files beside images as a table, unless they are labels."""
    texts = [text_of(decode(path)[0]) for path in beside]
    if sum(any(map(str.isalpha, text)) for text in texts) < max(2, len(texts) / 2):
        return []  # such as boxes, "0 0.5 0.5 0.1 0.1"
    rows = pd.DataFrame({"image": [*beside.values()], "caption": texts})
    roles = {"image": ["image"], "caption": ["caption"], "split": [], "patient": []}
    places, misfits = rows.image.map(lambda name: f"file {name}"), pd.Series(0, rows.index)
    how = "a text file beside each image"
    files = [*beside.values()]
    return [({*files}, Table(folder, how, rows, roles, misfits, places, files=files))]


def _merged_tables(
    tables: list[tuple[set[str], Table]], folder: Path, files: list[str]
) -> list[tuple[set[str], Table]]:
    """Return tables of captions merged with one that names the images, by a column of both."""
    merged = []
    for path in tables_in(folder):
        with suppress(UserError):
            named, names = _of_files(read_table(path, required=("image",)), folder, files)
            for _, texts in tables if named else ():
                if both := _merged(names, texts):
                    merged.append((named, both))
    return merged


def _merged(names: Table, texts: Table) -> Table | None:
    (image,), (caption,) = names.roles["image"], texts.roles["caption"]
    for column in names.rows.columns.intersection(texts.rows.columns).difference([image, caption]):
        known = names.rows[column].isin(texts.rows[column])
        if texts.rows[column].is_unique and known.mean() > 0.9:
            other = texts.rows.drop(columns=names.rows.columns.drop(column), errors="ignore")
            rows = names.rows.merge(other, "left", on=column).fillna("")
            how = f"{names.how}; captions of {texts.path}, by the column {column!r} of both"
            roles = {"image": [image], "caption": [caption], "split": names.roles["split"]}
            return replace(names, rows=rows, how=how, roles=roles | {"patient": [column]})
    return None


def _of_files(table: Table, folder: Path, files: list[str]) -> tuple[set[str], Table]:
    """Return the files that a table names, and the table with the `files` that it may name.

    They are those below its own folder, those of its split, or all: the first where it names any.
    """
    split, own = split_of(table, folder), table.path.parent.relative_to(folder).as_posix()
    below = [file for file in files if file.startswith(f"{own}/")]
    of_split = [f for f in files if split and split == split_word(os.path.dirname(f))]
    pairs = (_by_best_column(table, some) for some in (below, of_split) if some)
    return next((pair for pair in pairs if pair[0]), None) or _by_best_column(table, files)


def _by_best_column(table: Table, files: list[str]) -> tuple[set[str], Table]:
    """Return the files that a table names, by the column that names most; the others are dropped.

    A column of another name than usual counts only where the usual ones have running numbers, which
    may match other files, or match nothing. UserError if there are several such columns.
    """
    names = [*table.roles["image"], *table.further]
    found = {name: match_files(table.rows[name], files) for name in names}
    images = {name: {one[0] for one in found[name] if len(one) == 1} for name in found}
    usual = {name: images[name] for name in table.roles["image"]}
    most = max(map(len, usual.values()))
    likely = [n for n in usual if 2 * len(images[n]) >= most and _are_paths(table.rows[n])]
    best = max(likely or usual, key=lambda name: len(images[name]))
    further = [name for name in table.further if images[name] and name != best]
    if further and (not most or _are_counted(table.rows[best])):
        if further[1:]:
            raise UserError(
                f"{table.path} has file names in several columns, {further}. Choose one: COLUMNS = "
                f"'image={further[0]}'."
            )
        best = further[0]
    return images[best], replace(table, files=files, roles=table.roles | {"image": [best]})


def _joined(tables: list[tuple[set[str], Table]], folder: Path) -> list[tuple[set[str], Table]]:
    """Return the tables, those as one that have the same columns and different images.

    Such are sheets of a workbook, a table in each patient's folder, or parts of a data set.
    """
    joined: list[tuple[set[str], Table]] = []
    for named, table in tables:
        for i, (known, first) in enumerate(joined):
            alike = [*first.rows] == [*table.rows] and first.roles == table.roles
            if (
                alike and known and named and not known & named
                and split_of(first, folder) == split_of(table, folder)
            ):  # fmt: skip
                joined[i] = known | named, _both(first, table)
                break
        else:
            joined.append((named, table))
    return joined


def _both(first: Table, table: Table) -> Table:
    """Return the rows of two tables as one, whose names mean what they mean in each."""
    parts = []
    for one in (first, table):
        (column,), rows = one.roles["image"], one.rows
        if first.files != table.files:
            found = match_files(rows[column], one.files)
            single = found.map(lambda files: files[0] if len(files) == 1 else None)
            rows = rows.assign(**{column: single.fillna(rows[column])})
        where = f" of {one.sheet or one.path}"
        places = one.places if " of " in one.places.iloc[0] else one.places + where
        parts.append(replace(one, rows=rows, places=places))
    both = {
        name: pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        for name in ("rows", "misfits", "places")
    }
    files = [*dict.fromkeys([*first.files, *table.files])]
    return replace(first, **both, files=files, more=[*first.more, table])


def _are_counted(names: pd.Series) -> bool:
    """Return whether these names are running numbers."""
    numbers = names.str.strip()
    return bool(numbers.str.fullmatch(r"\d+").all()) and {*numbers.astype(int)} in (
        {*range(len(numbers))}, {*range(1, len(numbers) + 1)},
    )  # fmt: skip


def _are_paths(names: pd.Series) -> bool:
    """Return whether most of these names have a folder or an image's extension."""
    return (names.str.contains(r"[\\/]") | (names.map(without_extension) != names)).mean() > 0.5


def _largest(tables: list[tuple[set[str], Table]], folder: Path) -> Table:
    most, best = max(tables, key=lambda pair: len(pair[0]))
    rivals = [table for named, table in tables if named and not named < most]
    if len({table.path for table in rivals}) < 2:  # sheets of one workbook are no rivals
        return best
    raise UserError(
        f"{' and '.join(str(table.path) for table in rivals[:3])}{', …' * bool(rivals[3:])} each "
        f"name images of {folder}. Keep "
        "one table there, with all images; a column `split` may say train, validation or test. Or "
        "keep one readable table per split, such as train.csv, val.csv and test.csv."
    )


def report_unread(unread: list[tuple[str, str]], splits: set[str]) -> None:
    """Print which tables are not read; raise a UserError if one names a split not in `splits`."""
    for split, why in unread:
        if split and split not in splits:
            raise UserError(
                f"{why} It is named like the table of {split} images, and no other has these. "
                "Correct it, or move it to another folder: images are then held out at random."
            )
    if unread:
        print("NOTE:", *[why for _, why in unread[:3]], "…" * (len(unread) > 3), "To read another "
              "table, move the others away, or set DATA_DIR to a folder of its own.")  # fmt: skip
