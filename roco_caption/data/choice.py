"""Chooses which tables of a folder are read, and by which columns."""

from __future__ import annotations

import os
from bisect import bisect_left
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import HIDDEN
from roco_caption.data.columns import FILES
from roco_caption.data.joined import joined, merged, split_of
from roco_caption.data.names import match_files, without_extension
from roco_caption.data.reports import table_of_texts, texts_of_images
from roco_caption.data.splits import split_word, without_splits
from roco_caption.data.tables import READERS, UNREAD, Table, read_table, sheets_of

MADE = {"caption", "log_probability"}  # columns of a table that a captioner wrote


def tables_in(folder: Path) -> list[Path]:
    """Return the files in a folder, or up to two folders below, that may be tables."""
    paths = (path for level in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(level)))
    tables = {*READERS, *UNREAD}  # `read_table` says what to do with those that it cannot read
    named = [path for path in paths if path.suffix.lower() in tables and path.is_file()]
    return [path for path in named if not HIDDEN.search(path.relative_to(folder).as_posix())]


def choose_tables(
    folder: Path, files: list[str], texts: list[str], columns: str, lists: set[Path]
) -> tuple[list[Table], list[tuple[str, str]]]:
    """Return the tables to read: the one that names most images, or one per split.

    And for each that is not read the split that its path or sheet names, or "", and why. Images and
    `texts` are relative paths; files in `lists` are no tables.
    """
    texts = [text for text in texts if folder / text not in lists]
    reports = texts_of_images(files, texts)
    others = {*lists, *(folder / text for text in reports.values())}
    places = [path for path in tables_in(folder) if path not in others]
    tables, problems, unread, incomplete = _read_all(places, folder, files, columns)
    if not any(named for named, _ in tables):
        incomplete += [table for _, table in tables]
        reports = reports or texts_of_images(files, texts, by_folder=True)
        of_texts = table_of_texts(reports, folder)
        tables = of_texts or _merged_tables(incomplete, folder, files) or tables
        paths = tuple(f"{path} " for _, table in tables for path in (table.path, table.merged))
        unread = [(split, why) for split, why in unread if not why.startswith(paths)]
    if reports and not tables:
        problems.insert(0, "Its text files have no captions.")
    if incomplete and not tables:
        problems = _without_key(incomplete) + problems
    if not tables:
        problems += [why for _, why in unread if why not in problems]
        raise UserError(f"{folder} has no table of images and captions. {' '.join(problems[:3])}")
    usual = [pair for pair in tables if not pair[1].how.startswith("JSON {")]  # may be labels
    tables = usual if any(named for named, _ in usual) else tables
    tables = joined(tables, folder)
    splits = dict.fromkeys(split_of(table, folder) for named, table in tables if named)
    groups = [[pair for pair in tables if split_of(pair[1], folder) == s] for s in splits if s]
    whole = len(groups) < 2 or ("" in splits and "train" not in splits)
    chosen = [_largest(group, folder) for group in ([tables] if whole else groups)]
    for named, table in tables:
        if not any(table is one for one in chosen):
            why = f"{table} ({len(named):,} of the images) is not read."
            unread.append((split_of(table, folder), why))
    return chosen, unread


def _without_key(incomplete: list[Table]) -> list[str]:
    """Return what to do if one table names images and another has captions."""
    if not all(any(table.roles[role] for table in incomplete) for role in ("image", "caption")):
        return []
    return [
        "One table names images, another has captions. To be joined they need one column of the "
        "same name, such as image_id, with a different value in each row of the captions."
    ]


def _read_all(
    places: list[Path], folder: Path, files: list[str], columns: str
) -> tuple[list[tuple[set[str], Table]], list[str], list[tuple[str, str]], list[Table]]:
    """Return the tables with the files that each names; problems; what is not read, and why.

    And those that lack a column of images or of captions.
    """
    tables, problems, incomplete = [], [], list[Table]()
    failed: list[tuple[Path | None, str, str]] = []
    several = len({path.parent for path in places}) > 1
    for path, sheet in ((place, sheet) for place in places for sheet in sheets_of(place)):
        try:
            table = read_table(path, columns, sheet)
            if table.roles["caption"] == ["caption"] and MADE.issubset(table.rows.columns):
                why = f"{path} has captions that a captioner made, so it is not read. If a person "
                why += "corrected them, remove its column log_probability."
                failed.append((None, "", why))
            else:
                tables.append(_of_files(table, folder, files, several))
        except UserError as error:
            problems.append(str(error))
            failed.append((path, sheet, str(error)))
            if path.suffix.lower() != ".txt":
                with suppress(UserError):
                    incomplete.append(read_table(path, columns, sheet, required=()))
    unread = _with_splits(failed, [table for _, table in tables], folder)
    return tables, problems, unread, incomplete


def _with_splits(
    failed: list[tuple[Path | None, str, str]], tables: list[Table], folder: Path
) -> list[tuple[str, str]]:
    """Return for each table that is not read its split, and why it is not.

    A table belongs to a split if its name has no other word, or if a table that is read has the
    same name but for the split: "chest_train.csv", "chest_test.csv".
    """
    series = {(without_splits(table.path.stem), without_splits(table.sheet)) for table in tables}
    unread = []
    for path, sheet, why in failed:
        name = path.relative_to(folder).as_posix() if path else ""
        split = split_word(sheet, alone=True) or split_word(name, alone=True)
        if path and (without_splits(path.stem), without_splits(sheet)) in series:
            split = split or split_word(sheet) or split_word(name)
        if split or not (sheet or name.lower().endswith(".txt")):  # not a legend or README
            unread.append((split, why))
    return unread


def _merged_tables(
    tables: list[Table], folder: Path, files: list[str]
) -> list[tuple[set[str], Table]]:
    """Return tables of captions merged with one that names the images, by a column of both."""
    with_names = [table for table in tables if table.roles["image"]]
    pairs = (_of_files(table, folder, files, several=False) for table in with_names)
    both = [
        (named, merged(names, texts))
        for named, names in pairs if named
        for texts in tables if texts.roles["caption"] and texts.path != names.path
    ]  # fmt: skip
    return [(named, table) for named, table in both if table]


def _of_files(
    table: Table, folder: Path, files: list[str], several: bool
) -> tuple[set[str], Table]:
    """Return the files that a table names, and the table with the `files` that it may name.

    They are those below its own folder if it names most of these by bare names, and `several`
    folders have tables; else those of its split; else all.
    """
    own = table.path.parent.relative_to(folder).as_posix()
    names = table.rows[table.roles["image"][0]]
    below = files[bisect_left(files, f"{own}/") : bisect_left(files, f"{own}0")]  # "0" follows "/"
    if several and below and names.str.contains(r"[\\/]").mean() < 0.5:
        named, chosen = _by_best_column(table, below)
        if 2 * len(named) > names.nunique():
            return named, chosen
    split = split_of(table, folder)
    of_split = [f for f in files if split == split_word(os.path.dirname(f))] if split else []
    return _by_best_column(table, of_split or files)


def _by_best_column(table: Table, files: list[str]) -> tuple[set[str], Table]:
    """Return the files that a table names, and the table with only the column that names most.

    A column of another name than usual counts only where the usual ones have numbers, which may
    match other files, or nothing that names a file. UserError if there are several such columns.
    """

    def named_by(column: str) -> set[str]:
        found = match_files(table.rows[column], files)
        return {one[0] for one in found if len(one) == 1}

    images = {name: named_by(name) for name in table.roles["image"]}
    most = max(map(len, images.values()))
    paths = [name for name in images if _are_paths(table.rows[name])]
    likely = [name for name in paths if 2 * len(images[name]) >= most]
    best = max(likely or images, key=lambda name: len(images[name]))
    numbered = table.rows[best].str.fullmatch(r"\s*\d{1,9}\s*").all()
    if numbered or not (most or paths):
        images |= {name: named_by(name) for name in table.further}
        better = [
            name for name in table.further
            if images[name] and len(images[name]) >= most
            and not (images[best] and images[best].isdisjoint(images[name]))
        ]  # fmt: skip
        doubtful = most and better and not FILES.search(better[0])  # perhaps earlier images
        doubtful = doubtful and not match_files(table.rows[best], files).equals(
            match_files(table.rows[better[0]], files)
        )
        if better[1:] or doubtful:
            several = [best, *better] if doubtful else better
            raise UserError(
                f"{table.path} has names of images in several columns, {several}. Choose one: "
                f"COLUMNS = 'image={several[0]}'."
            )
        best = better[0] if better else best
    return images[best], replace(table, files=files, roles=table.roles | {"image": [best]})


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
