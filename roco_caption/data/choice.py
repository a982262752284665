"""Chooses which tables of a folder are read, and by which columns."""

from __future__ import annotations

import itertools
import os
from bisect import bisect_left
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import HIDDEN
from roco_caption.data.columns import BESIDE, FILES, SENTENCE, file_columns
from roco_caption.data.joined import is_meant, joined, merged, report_roles
from roco_caption.data.names import match_files, without_extension
from roco_caption.data.reports import table_of_texts, texts_of_folders, texts_of_images
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
    known = {*lists, *(folder / text for text in reports.values())}
    places = [path for path in tables_in(folder) if path not in known]
    tables, incomplete, failed = _read_all(places, folder, files, columns)
    made = [table for table in tables if _is_made(table)]
    tables = [table for table in tables if table not in made]
    if not any(table.images for table in tables):
        incomplete += tables
        others = table_of_texts(reports, folder) or _merged_tables(incomplete, folder, files)
        if not (others or tables or columns or _may_have_captions(incomplete, failed)):
            of_folders = texts_of_folders(files, texts)
            others = table_of_texts(of_folders, folder, of_folders=True)
        tables = others or tables
        used = {path for table in others for path in (table.path, *table.texts)}
        failed = [one for one in failed if one[0] not in used]
    unread = [
        ("", f"{table.path} has captions that a captioner made, so it is not read. If a person "
             "corrected them, remove its column log_probability.")
        for table in made
    ]  # fmt: skip
    if not tables:
        problems = ["Its text files have no captions."] if reports else []
        problems += _without_key(incomplete)
        problems += [why for *_, why in failed] + [why for _, why in unread]
        raise UserError(f"{folder} has no table of images and captions. {' '.join(problems[:3])}")
    unread += _with_splits(failed, tables, folder)
    labels = _labels_in(tables)
    tables = joined([table for table in tables if table not in labels], folder)
    splits = dict.fromkeys(table.split for table in tables if table.images)
    groups = [[table for table in tables if table.split == split] for split in splits if split]
    whole = len(groups) < 2 or ("" in splits and "train" not in splits)
    chosen = [_largest(group, folder) for group in ([tables] if whole else groups)]
    report_roles(chosen[0], incomplete)
    for table in (*tables, *labels):
        if table not in chosen:
            why = f"{table} ({len(table.images):,} of the images) is not read."
            unread.append(("" if table in labels else table.split, why))
    return chosen, unread


def _may_have_captions(incomplete: list[Table], failed: list[tuple[Path, str, str]]) -> bool:
    """Return whether a table that cannot be read as it is may have been meant."""
    if any(path.suffix.lower() in UNREAD for path, *_ in failed):
        return True
    words = [table.rows.map(lambda text: len(text.split())).mean() for table in incomplete]
    return any((mean >= SENTENCE).any() for mean in words)


def _labels_in(tables: list[Table]) -> list[Table]:
    """Return the tables {image: text} in JSON, if others have captions of these images."""
    maps = [table for table in tables if table.how.startswith("JSON {")]
    usual = {table.split for table in tables if table.images and table not in maps}
    return maps if usual & {"", *(table.split for table in maps)} else []


def _is_made(table: Table) -> bool:
    return table.roles["caption"] == ["caption"] and MADE.issubset(table.rows.columns)


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
) -> tuple[list[Table], list[Table], list[tuple[Path, str, str]]]:
    """Return the tables; those without a column of images or captions; and (path, sheet, why)."""
    tables, incomplete, failed = list[Table](), list[Table](), list[tuple[Path, str, str]]()
    several = len({path.parent for path in places}) > 1
    for path, sheet in ((place, sheet) for place in places for sheet in sheets_of(place)):
        try:
            table = read_table(path, columns, sheet)
            tables.append(_of_files(table, folder, files, several))
        except UserError as error:
            failed.append((path, sheet, str(error)))
            if path.suffix.lower() != ".txt":
                with suppress(UserError):
                    incomplete.append(read_table(path, columns, sheet, required=()))
    return tables, incomplete, failed


def _with_splits(
    failed: list[tuple[Path, str, str]], tables: list[Table], folder: Path
) -> list[tuple[str, str]]:
    """Return for each table that is not read its split, and why it is not.

    A table belongs to a split if its name has no other word, or if a table that is read has the
    same name but for the split: "chest_train.csv", "chest_test.csv".
    """
    series = {(without_splits(table.path.stem), without_splits(table.sheet)) for table in tables}
    unread = []
    for path, sheet, why in failed:
        name = path.relative_to(folder).as_posix()
        alone = (without_splits(path.stem), without_splits(sheet)) not in series
        split = split_word(sheet, alone=alone) or split_word(name, alone=alone)
        if split or not (sheet or name.lower().endswith(".txt")):  # not a legend or README
            unread.append((split, why))
    return unread


def _merged_tables(tables: list[Table], folder: Path, files: list[str]) -> list[Table]:
    """Return tables of captions merged with one that names the images, by a column of both."""
    named = [
        (table, _of_files(table, folder, files, several=False))
        for table in tables if table.roles["image"]
    ]  # fmt: skip
    both = [
        merged(names, texts)
        for origin, names in named if names.images
        for texts in tables if texts.roles["caption"] and texts is not origin
    ]  # fmt: skip
    return [table for table in both if table]


def _of_files(table: Table, folder: Path, files: list[str], several: bool) -> Table:
    """Return the table with its split, the `files` that it may name, and the images that it names.

    The files are those below its own folder if it names most of these, by their paths, or by bare
    names if `several` folders have tables; else those of its split; else all.
    """
    place = table.path.relative_to(folder)
    table = replace(table, split=split_word(table.sheet) or split_word(place.as_posix()))
    own = f"{place.parent.as_posix()}/"
    below = files[bisect_left(files, own) : bisect_left(files, f"{own[:-1]}0")]  # "0" follows "/"
    names = table.rows[table.roles["image"][0]].str.replace("\\", "/")
    here = names.isin(below) | ((own + names).isin(below) & ~names.isin(files))
    masks = not several and BESIDE.search(own)
    bare = several & ~names.str.contains("/")
    if below and not masks and (here | bare).mean() > 0.5:
        chosen = _by_best_column(table, below)
        all_here = bare.mean() > 0.5 or here.all()
        all_here = all_here or len(chosen.images) == len(_by_best_column(table, files).images)
        if all_here and 2 * len(chosen.images) > names.nunique():
            return chosen
    if table.split:
        of_split = [file for file in files if split_word(os.path.dirname(file)) == table.split]
        files = of_split or files
    return _by_best_column(table, files)


def _by_best_column(table: Table, files: list[str]) -> Table:
    """Return the table with only the column of images that names most of the files.

    A column of another name than usual counts only where the usual ones have numbers, which may
    match other files, or nothing that names a file. UserError if there are several such columns.
    """
    found = {name: match_files(table.rows[name], files) for name in table.roles["image"]}
    images = {name: _single(found[name]) for name in found}
    most = max(map(len, images.values()))
    paths = [name for name in found if _are_paths(table.rows[name])]
    likely = [name for name in paths if 2 * len(images[name]) >= most]
    best = max(likely or found, key=lambda name: len(images[name]))
    numbered = table.rows[best].str.fullmatch(r"\s*\d{1,9}\s*").all()
    endings = {os.path.splitext(file)[1].lower() for file in files} - {""}
    lost = [name for name in paths if not images[name] and _are_files(table.rows[name], endings)]
    if "image" not in table.fixed and numbered and lost and _counts_rows(table.rows[best]):
        raise UserError(
            f"{table.path} names images in column {lost[0]!r}, but there is no file such as "
            f"{table.rows[lost[0]].iloc[0]}. Correct them or DATA_DIR; or, if the numbers in "
            f"{best!r} are the names of files, set COLUMNS = 'image={best}'."
        )
    if "image" not in table.fixed and (numbered or not (most or paths)):
        best, found[best] = _by_other_column(table, files, best, found[best], most)
    roles = table.roles | {"image": [best]}
    return replace(table, files=files, images=_single(found[best]), roles=roles)


def _are_files(names: pd.Series, endings: set[str]) -> bool:
    """Return whether most names have an ending of the files that are there, and are no URLs."""
    ending = names.map(lambda name: os.path.splitext(name.strip())[1].lower())
    return bool((ending.isin(endings) & ~names.str.contains("://")).mean() > 0.5)


def _counts_rows(numbers: pd.Series) -> bool:
    return len(numbers) > 1 and bool((numbers.astype(int).diff()[1:] == 1).all())


def _by_other_column(
    table: Table, files: list[str], usual: str, found: pd.Series, most: int
) -> tuple[str, pd.Series]:
    """Return a column of another name with image files that names as many files, else `usual`.

    And the files that it names. Columns of other images, such as masks, name none of the same.
    """
    better = {}
    for name in file_columns(table.rows, itertools.chain(*table.roles.values())):
        files_of = match_files(table.rows[name], files)
        images, known = _single(files_of), _single(found)
        if images and len(images) >= most and not (known and known.isdisjoint(images)):
            better[name] = files_of
    if not better:
        return usual, found
    first = next(iter(better))
    earlier = most and not FILES.search(first) and not found.equals(better[first])  # perhaps
    several = [usual, *better] if earlier else [*better]
    if len(several) > 1:
        raise UserError(
            f"{table.path} has names of images in several columns, {several}. Choose one: "
            f"COLUMNS = 'image={several[0]}'."
        )
    return first, better[first]


def _single(found: pd.Series) -> set[str]:
    """Return the files that are the only ones of a name."""
    return {files[0] for files in found if len(files) == 1}


def _are_paths(names: pd.Series) -> bool:
    """Return whether most of these names have a folder or an image's extension."""
    return (names.str.contains(r"[\\/]") | (names.map(without_extension) != names)).mean() > 0.5


def _largest(tables: list[Table], folder: Path) -> Table:
    enough = max(len(table.images) for table in tables) / 2

    def rank(table: Table) -> tuple[Any, ...]:
        likely = is_meant(table, folder) if len(table.images) >= enough else (False, False)
        return *likely, len(table.images), bool(table.roles["split"])

    best = max(tables, key=rank)
    rivals = [table for table in tables if table.images and not table.images < best.images]
    meant = is_meant(best, folder)
    rivals = [t for t in rivals if is_meant(t, folder) >= meant or not t.images >= best.images]
    # two tables of names for one of captions are no rivals, and no sheets of one workbook
    places = dict.fromkeys(
        min(table.texts) if table.texts and table.images <= best.images else table.path
        for table in rivals
    )
    if len(places) < 2:
        return best
    more = ", …" if len(places) > 3 else ""
    raise UserError(
        f"{' and '.join(map(str, [*places][:3]))}{more} each have captions for images of {folder}. "
        "Keep one table there, with all images; a column `split` may say train, validation or "
        "test. Or keep one readable table per split, such as train.csv, val.csv and test.csv."
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
        reasons = [why for _, why in unread[:3]] + (["…"] if len(unread) > 3 else [])
        print("NOTE:", *reasons, "To read another table, move the others away, or set DATA_DIR to "
              "a folder of its own.")  # fmt: skip
