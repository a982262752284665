"""Reads a folder of one's own: images, and a table of their captions; splits them if necessary."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from roco_caption.core.errors import UserError, shown
from roco_caption.core.files import HIDDEN, files_below
from roco_caption.data.cases import IMAGES_PER_CASE
from roco_caption.data.images import is_image_file
from roco_caption.data.names import match_files
from roco_caption.data.names import without_extension as stem_of
from roco_caption.data.tables import (
    READERS,
    UNREAD,
    Table,
    read_table,
    sheets_of,
)

MADE = {"caption", "log_probability"}  # columns of a table that a captioner wrote
QUOTES = "Put captions that contain the separator in quotes."
WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "validate": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip

NEUTRAL = {  # words that may stand beside them
    "", "captions", "data", "dataset", "dicom", "files", "image", "images", "img", "imgs", "jpg",
    "labels", "png", "radiology", "reports", "scans", "set", "split",
}  # fmt: skip


def tables_in(folder: Path) -> list[Path]:
    """Return the files in a folder, or up to two folders below, that may be tables."""
    paths = (path for level in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(level)))
    tables = {*READERS, *UNREAD}  # `read_table` says what to do with those that it cannot read
    named = [path for path in paths if path.suffix.lower() in tables and path.is_file()]
    return [path for path in named if not HIDDEN.search(path.relative_to(folder).as_posix())]


def read_folder(folder: Path, columns: str = "") -> pd.DataFrame:
    """Return `list_rows` of the table in a folder, or of one per split, with `split` or ""."""
    paths = {path.relative_to(folder).as_posix(): path for path in files_below(folder, [])}
    files = [name for name in sorted(paths) if is_image_file(paths[name])]
    parts = []
    tables, unread = _choose_tables(folder, files, columns)
    for table in tables:
        print(table)
        part = list_rows(table, folder, _beside(table, folder, files))
        split = _split_of(table, folder) if tables[1:] else _known_splits(table, part)
        parts.append(part.assign(split=split))
    rows = pd.concat(parts, ignore_index=True)
    named = {_split_of(table, folder) for table in tables}
    _report_unread(unread, named | set(rows.split[rows.reason == ""]))
    if unlisted := len(set(files) - set(rows.file)):
        print(f"{unlisted:,} of the {len(files):,} images have no row in the table.")
    count = rows[rows.reason == ""].groupby("file").split.nunique()
    if (count > 1).any():
        places = " and ".join(str(table.path) for table in tables)
        raise UserError(f"{places} lists {count.idxmax()} in several splits. Keep one.")
    return rows


def _split_word(path: str) -> str:
    """Return the split that a path names, as "val/images", "val2017" and "val.csv" do, else ""."""
    parts = path.lower().removesuffix(PurePosixPath(path).suffix.lower()).split("/")[::-1]
    words = [set(re.split(r"[\W_\d]+", part)) for part in parts]
    for others in (NEUTRAL, None):  # "stress test" may be below "train"
        for some in words:
            splits = {WORDS[word] for word in some & WORDS.keys()}
            if len(splits) == 1 and (others is None or some - WORDS.keys() <= others):
                return splits.pop()
    return ""


def _split_of(table: Table, folder: Path) -> str:
    return _split_word(table.sheet) or _split_word(table.path.relative_to(folder).as_posix())


def _beside(table: Table, folder: Path, files: list[str]) -> list[str]:
    """Return the files that a table may name: one of a split those in the split's folders."""
    split = _split_of(table, folder)
    return [f for f in files if split and split == _split_word(os.path.dirname(f))] or files


def _choose_tables(
    folder: Path, files: list[str], columns: str
) -> tuple[list[Table], list[tuple[str, str]]]:
    """Return the table that names most images, by the column that does, or one per split.

    And for each that is not read the split that its path or sheet names, or "", and why.
    """
    tables, problems, unread = [], [], []
    for path, sheet in ((file, sheet) for file in tables_in(folder) for sheet in sheets_of(file)):
        try:
            table = read_table(path, columns, sheet)
        except UserError as error:
            problems.append(str(error))
            split = _split_word(sheet) or _split_word(path.relative_to(folder).as_posix())
            if split or not (sheet or path.suffix.lower() == ".txt"):  # not a legend or README
                unread.append((split, str(error)))
            continue
        if table.roles["caption"] == ["caption"] and MADE.issubset(table.rows.columns):
            why = f"{path} has captions that a captioner made, so it is not read. If a person "
            unread.append(("", f"{why}corrected them, remove its column log_probability."))
            continue
        beside = _beside(table, folder, files)
        found = {name: match_files(table.rows[name], beside) for name in table.roles["image"]}
        images = {name: {one[0] for one in found[name] if len(one) == 1} for name in found}
        most = max(map(len, images.values()))
        likely = [n for n in images if 2 * len(images[n]) >= most and _are_paths(table.rows[n])]
        best = max(likely or images, key=lambda name: len(images[name]))
        table.roles["image"] = [best]  # running numbers may match other files
        tables.append((images[best], table))
    if not tables:
        problems += [why for _, why in unread if why not in problems]
        raise UserError(f"{folder} has no table of images and captions. {' '.join(problems[:3])}")
    usual = [pair for pair in tables if not pair[1].how.startswith("JSON {")]  # may be labels
    tables = usual if any(named for named, _ in usual) else tables
    splits = dict.fromkeys(_split_of(table, folder) for named, table in tables if named)
    groups = [[pair for pair in tables if _split_of(pair[1], folder) == s] for s in splits if s]
    whole = len(groups) < 2 or ("" in splits and "train" not in splits)
    chosen = [_largest(group, folder) for group in ([tables] if whole else groups)]
    for named, table in tables:
        if not any(table is one for one in chosen):
            why = f"{table} ({len(named):,} of the images) is not read."
            unread.append((_split_of(table, folder), why))
    return chosen, unread


def _are_paths(names: pd.Series) -> bool:
    """Return whether most of these names have a folder or an image's extension."""
    return (names.str.contains(r"[\\/]") | (names.map(stem_of) != names)).mean() > 0.5


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


def _report_unread(unread: list[tuple[str, str]], splits: set[str]) -> None:
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


def list_rows(table: Table, folder: Path, files: list[str]) -> pd.DataFrame:
    """Return DataFrame[name, file, image, caption, reason], one row per row of a table.

    They are the name in the table; one of `files`, which are in `folder`, and its path; the caption
    in one line; and why the row is left out, or "". And `case`, if a column names the patients.
    Raises a UserError if all rows are left out.
    """
    names = table.rows[table.roles["image"][0]]
    found = match_files(names, files)
    rows = pd.DataFrame({"name": names, "file": found.map(lambda files: (files or [""])[0])})
    rows["image"] = [str(folder / name) for name in rows.file]
    rows["caption"] = table.rows[table.roles["caption"][0]].str.split().str.join(" ")
    rows["reason"] = ""
    for reason, applies in {
        "format not supported": (rows.file == "") & names.map(lambda n: os.path.isfile(folder / n)),
        "image file missing": rows.file == "",
        "several files of this name": found.map(len) > 1,
        "several names for this file": _clashing(rows),
        "no caption": rows.caption == "",
        "does not fit the header": table.misfits > 0,
    }.items():
        rows.loc[applies, "reason"] = reason
    rows["name"] = names.where((table.misfits == 0) & (names.str.strip() != ""), table.places)
    if (patients := _patients(table)) is not None:
        rows["case"] = patients
    usable = rows[rows.reason == ""]
    rows.loc[usable.index[usable.duplicated(["file", "caption"])], "reason"] = "listed twice"
    if usable.empty:
        raise UserError(
            f"No image of {folder} can be used ({rows.reason.value_counts().to_dict()}). "
            f"{_advice(rows, files)} {table}. "
            f"It has the columns {shown(table.rows.columns)}. Names in it: {shown(names[:2])}; "
            f"files: {files[:2]}."
        )
    return rows


def _advice(rows: pd.DataFrame, files: list[str]) -> str:
    """Return what to do if no row can be used, whose `reason` says why."""
    names = set(rows.name.str.strip().str.strip("/"))
    if names & {str(parent) for file in files for parent in PurePosixPath(file).parents}:
        return "Names in its table are folders: give each image a row, with its folder and name."
    if (rows.reason == "several files of this name").any():
        one_folder = len({os.path.dirname(file) for file in files}) == 1
        how = (
            "Write names with their extension" if one_folder else "Put the folder before each name"
        )
        return f"{how} in its table, as in p1/IM0001.png."
    if (rows.reason == "does not fit the header").any():
        return QUOTES
    return "Check that its images are unpacked and that its table has captions."


def _patients(table: Table) -> pd.Series | None:
    """Return each row's patient, by the first column that names them, or None."""
    for column in table.roles["patient"]:
        patient = table.rows[column].str.strip()
        texts = patient[patient != ""]
        numbered = len(texts) > 0 and texts.str.contains(r"\d").mean() > 0.5
        if not numbered and len(patient) > IMAGES_PER_CASE * patient.nunique():
            print(f"NOTE: column {column!r} of {table.path} names no patients and is ignored.")
            continue
        cases = patient.where(patient != "")
        if table.sheet and (gaps := cases.isna()).any():
            cases = cases.ffill()  # of merged cells only the first has the value
            print(f"NOTE: {gaps.sum():,} rows of {table.path} get the patient above them.")
        table.roles["patient"] = [column]
        return cases
    return None


def _clashing(rows: pd.DataFrame) -> pd.Series:
    """Return which rows name a file by folders other than those in another name of this file."""
    loose, folders = rows.name != rows.file, defaultdict(set)
    for name, file in rows.loc[loose & (rows.file != ""), ["name", "file"]].values:
        path = PurePosixPath("/", name.casefold().strip().replace("\\", "/"))
        folders[file].add(str(path.parent).rstrip("/"))
    longest = {file: max(paths, key=len) for file, paths in folders.items()}
    clashing = [f for f in folders if not all(longest[f].endswith(path) for path in folders[f])]
    return loose & rows.file.isin(clashing)


def print_left_out(rows: pd.DataFrame) -> None:
    """Print the names of the first rows that are left out, and why."""
    left_out = rows[rows.reason != ""]
    if len(left_out):
        first = [f"{plain!r} ({why})" for plain, why in left_out[["name", "reason"]].values[:5]]
        more = ", …" if len(left_out) > 5 else "."
        rows_are = "1 row is" if len(left_out) == 1 else f"{len(left_out):,} rows are"
        print(f"NOTE: {rows_are} left out: {', '.join(first)}{more}")
        if "does not fit the header" in set(left_out.reason):
            print(QUOTES)


def image_ids(files: Iterable[str]) -> dict[str, str]:
    """Return {file: id} for relative paths: the shortest form that no other file has.

    It is the name without extension, else with its folder before it, `train/001`, else with its
    extension, `a.png`, else the whole path.
    """
    forms = {}
    for file in dict.fromkeys(files):
        folder, name = os.path.split(file)
        stem = stem_of(name)
        forms[file] = dict.fromkeys((stem, f"{folder}/{stem}".lstrip("/"), name, file))
    owners = Counter(itertools.chain.from_iterable(forms.values()))
    return {file: next((f for f in forms[file] if owners[f] == 1), file) for file in forms}


def _known_splits(table: Table, rows: pd.DataFrame) -> pd.Series:
    """Return train, validation or test by a column or else by folders, "" where neither says."""
    split = rows.file.map(lambda file: _split_word(os.path.dirname(file)))
    if "train" not in set(split):  # such folders mean something else
        split = pd.Series("", rows.index)
    for column in table.roles["split"]:
        words = table.rows[column].str.strip().str.lower()
        by_column = words.map(_split_word)
        unknown = [word for word in words[by_column == ""].unique() if word]
        if unknown and by_column.any():
            print(f"NOTE: column {column!r} of {table.path} has the words {unknown[:5]}, which "
                  f"name no split. Known are {', '.join(WORDS)}.")  # fmt: skip
        if by_column.any():
            split, table.roles["split"] = by_column, [column]
            break
        else:
            print(f"NOTE: column {column!r} of {table.path} names no split and is ignored.")
    if split.any():
        rows.loc[(split == "") & (rows.reason == ""), "reason"] = "no known split"
    return split
