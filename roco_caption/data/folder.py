"""Reads a folder of one's own: images, and a table of their captions; splits them if necessary."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pandas as pd

from roco_caption.core.errors import UserError, shown
from roco_caption.core.files import files_below
from roco_caption.data.cases import IMAGES_PER_CASE, MIN_PATIENTS, spelled
from roco_caption.data.cells import plain_text
from roco_caption.data.choice import choose_tables, report_unread
from roco_caption.data.columns import STUDIES, USUAL, plain
from roco_caption.data.images import is_image_file
from roco_caption.data.names import match_files, without_extension
from roco_caption.data.splits import (
    SPLITS,
    column_of_splits,
    listed_splits,
    perhaps_splits,
    split_of_folders,
    split_word,
)
from roco_caption.data.tables import Table

PERSON = re.compile(  # in a column's name
    r"patient|subject|proband|person|(?<![a-z])mrn(?![a-z])", re.I
)
OF_PERSON = re.compile(  # what else such columns say
    r"age|alter|sex|gender|geschlecht|weight|height|size|position|orient|date|birth|geb|history"
    r"|type|class|group|country|race|ethnic|status|comment|info", re.I
)  # fmt: skip
OF_FOLDERS = re.compile(  # in the name of a column of images' folders
    r"pat|pid|mrn|subj|case|fall|study|series|dir|folder|ordner", re.I
)
OF_IDS = re.compile(r".+(?:id|nr|no|number|nummer|uid|key)|mrn")  # a column's plain name
QUOTES = "Put captions that contain the separator in quotes."


def read_folder(folder: Path, columns: str = "") -> pd.DataFrame:
    """Return `list_rows` of the table in a folder, or of one per split, with `split` or ""."""
    paths = {path.relative_to(folder).as_posix(): path for path in files_below(folder, [])}
    files = [name for name in sorted(paths) if is_image_file(paths[name])]
    parts = []
    listed, lists = listed_splits(folder, files)
    texts = [name for name in paths if name.lower().endswith(".txt")]
    tables, unread = choose_tables(folder, files, texts, columns, lists)
    for table in tables:
        part = list_rows(table, folder, table.files)
        split = table.split if tables[1:] else _known_splits(table, part, listed)
        print(table)
        parts.append(part.assign(split=split))
    rows = without_repeated(pd.concat(parts, ignore_index=True))
    report_unread(unread, {table.split for table in tables} | set(rows.split[rows.reason == ""]))
    if unlisted := len(set(files) - set(rows.file)):
        print(f"{unlisted:,} of the {len(files):,} images have no row in the table.")
    count = rows[rows.reason == ""].groupby("file").split.nunique()
    if (count > 1).any():
        places = " and ".join(str(table.path) for table in tables)
        raise UserError(f"{places} lists {count.idxmax()} in several splits. Keep one.")
    return rows


def list_rows(table: Table, folder: Path, files: list[str]) -> pd.DataFrame:
    """Return DataFrame[name, file, image, caption, reason, row], one row per row of a table.

    They are the name in the table; one of `files`, which are in `folder`, and its path; the caption
    in one line; why the row is left out, or ""; and its place in the table. And `case`, if a column
    names the patients.
    Raises a UserError if all rows are left out.
    """
    names = table.rows[table.roles["image"][0]]
    found = match_files(names, files)
    rows = pd.DataFrame({"name": names, "file": found.map(lambda one: one[0] if one else "")})
    rows["image"] = [str(folder / name) for name in rows.file]
    rows["caption"] = table.rows[table.roles["caption"][0]].map(plain_text)
    rows["reason"] = ""
    lost = rows.file == ""
    unknown = [name for name in names[lost].unique() if os.path.isfile(folder / name)]
    for reason, applies in {
        "image file missing": lost | _of_another_folder(rows, table),
        "format not supported": lost & names.isin(unknown),
        "several files of this name": (found.map(len) > 1) | _cut_short(names, files),
        "several names for this file": _clashing(rows),
        "no caption": ~rows.caption.str.contains(r"\w"),
        "does not fit the header": table.misfits > 0,
    }.items():
        rows.loc[applies, "reason"] = reason
    rows["name"] = names.where((table.misfits == 0) & (names.str.strip() != ""), table.places)
    rows["row"] = f"{table.path} {table.sheet} " + table.places
    if (patients := _patients(table)) is not None:
        rows["case"] = patients
        bare = (rows.reason == "") & (names != rows.file) & ~names.str.contains(r"[\\/]")
        own = spelled(table.rows[table.roles["patient"][0]]).replace("", None)  # gaps not filled
        several = own[bare].groupby(rows.file).transform("nunique") > 1
        if plain(table.roles["patient"][0]) not in STUDIES:  # of which an image may be in several
            rows.loc[several[several].index, "reason"] = "several patients for this file"
    if table.sheet and (empty := rows.reason == "no caption").mean() > 0.3:
        print(f"NOTE: {empty.sum():,} rows of {table.path} have no caption. If that column's cells "
              "are merged, write the caption into each row: of merged cells only the first has "
              "it.")  # fmt: skip
    if (rows.reason != "").all():
        raise UserError(
            f"No image of {folder} can be used ({rows.reason.value_counts().to_dict()}). "
            f"{_advice(rows, files)} {table}. "
            f"It has the columns {shown(table.rows.columns)}. Names in it: {shown(names[:2])}; "
            f"files: {files[:2]}."
        )
    return rows


def without_repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with a `reason` for those whose image, caption and split came before."""
    usable = rows[rows.reason == ""]
    usable = usable.assign(caption=usable.caption.str.split().str.join(" "))
    again = usable.index[usable.duplicated(["file", "caption", "split"])]
    return rows.assign(reason=rows.reason.mask(rows.index.isin(again), "listed twice"))


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
    return (
        "Check that its images are unpacked and that its table has captions; or name the columns, "
        "as in COLUMNS = 'image=film, caption=diagnosis'."
    )


def _patients(table: Table) -> pd.Series | None:
    """Return each row's patient, by the first column that names them, or None."""
    for column in table.roles["patient"]:
        patient = table.rows[column].str.strip()
        texts = patient[patient != ""]
        # "P17" and "Case A", but not "CT ABDOMEN"
        numbered = len(texts) > 0 and texts.str.contains(r"\d|\b[A-Z]$").mean() > 0.5
        many = len(patient) > IMAGES_PER_CASE * patient.nunique()
        if OF_IDS.fullmatch(plain(column)) and plain(column) not in STUDIES:  # perhaps pseudonyms
            many = many and texts.nunique() < MIN_PATIENTS
        if "patient" not in table.fixed and not numbered and (many or plain(column) in STUDIES):
            print(f"NOTE: column {column!r} of {table.path} names no patients and is ignored.")
            continue
        if len(texts) and texts.str.fullmatch(r"\d([.,]\d+)?E\+\d+").mean() > 0.5:
            print(f"NOTE: column {column!r} of {table.path} has shortened numbers such as "
                  f"{texts.iloc[0]}, so several patients may count as one. Export the table again "
                  "with this column formatted as text.")  # fmt: skip
        cases = patient.where(patient != "")
        gaps = cases.isna()
        once = texts.is_unique and not gaps.head(1).any() and 3 * gaps.sum() >= len(gaps)
        once = once and gaps.groupby((~gaps).cumsum()).sum().max() <= IMAGES_PER_CASE
        if (table.sheet or once) and gaps.any():
            sheets = table.places.str.partition(" of ")[2]
            cases = cases.groupby(sheets).ffill()  # of merged cells only the first has the value
            print(f"NOTE: {gaps.sum():,} rows of {table.path} get the patient above them.")
        if plain(column) in STUDIES and "patient" not in table.fixed:
            print(f"NOTE: images are kept together by {column!r}. If one patient may have several "
                  "of these, name the column of patients: COLUMNS = 'patient=…'.")  # fmt: skip
        table.roles["patient"] = [column]
        return cases
    table.roles["patient"] = []
    for column in filter(PERSON.search, table.rows):
        values = table.rows[column].str.strip()
        other = plain(column) in USUAL["patient"] or values[values != ""].nunique() < 3
        other = other or column in table.roles["image"] + table.roles["caption"]
        if not (other or OF_PERSON.search(column)) and values.duplicated().any():
            print(f"NOTE: if column {column!r} of {table.path} names the patients, set COLUMNS = "
                  f"'patient={column}'.")  # fmt: skip
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


def _cut_short(names: pd.Series, files: list[str]) -> pd.Series:
    """Return which names may have lost a zero: a spreadsheet makes 1.1 of 1.10, beside the 1.1."""
    short = names.str.fullmatch(r"\d+\.\d+") & names.duplicated(keep=False)
    if not short.any():
        return short
    stems = {without_extension(os.path.basename(file)) for file in files}
    return short & (names + "0").isin(stems) & ~(names + "0").isin(names)


def _of_another_folder(rows: pd.DataFrame, table: Table) -> pd.Series:
    """Return which rows name a file without its folder, while a cell of another row has it.

    So it is where "p2", "1.png" should name a file of p2/, but only p1/1.png is there.
    """
    bare = (rows.file != "") & ~rows.name.str.contains(r"[\\/]") & (rows.name != rows.file)
    shared = rows[bare & rows.file.duplicated(keep=False)]
    other = pd.Series(False, rows.index)
    if shared.empty:
        return other
    folders = shared.file.str.casefold().str.split("/").str[:-1]
    for column in table.rows.columns.difference(table.roles["caption"]):
        cells = table.rows[column][shared.index].str.strip().str.casefold()
        kinds = {re.sub(r"\d+", "#", cell) for cell in cells if cell}
        alike = len(kinds) == 1 and re.search(r"[a-z].*#|#.*[a-z]", min(kinds))  # "p1", "p2"
        if not (alike or OF_FOLDERS.search(column) or column in table.roles["patient"]):
            continue
        inside = [cell in parents for cell, parents in zip(cells, folders, strict=True)]
        named = pd.Series(inside, shared.index)
        elsewhere = named.groupby(shared.file).transform("any") & ~named
        other |= other.index.isin(elsewhere.index[elsewhere & (cells != "")])
    return other


def print_left_out(rows: pd.DataFrame) -> None:
    """Print the names of the first rows that are left out, and why."""
    left_out = rows[rows.reason != ""]
    if len(left_out):
        first = [f"{name!r} ({why})" for name, why in left_out[["name", "reason"]].values[:5]]
        more = ", …" if len(left_out) > 5 else "."
        rows_are = "1 row is" if len(left_out) == 1 else f"{len(left_out):,} rows are"
        print(f"NOTE: {rows_are} left out: {', '.join(first)}{more}")
        if "does not fit the header" in set(left_out.reason):
            print(QUOTES)


def _known_splits(table: Table, rows: pd.DataFrame, listed: dict[str, str]) -> pd.Series:
    """Return train, validation or test by a column, else by `listed` files, else by folders.

    It is "" where none says.
    """
    split = _by_column(table)
    if split is None:
        if listed:
            split = rows.file.map(lambda file: listed.get(file, ""))
        else:
            split = split_of_folders(rows.file[rows.file != ""]).reindex(rows.index, fill_value="")
        if "train" not in set(split):  # such folders mean something else
            split = pd.Series("", rows.index)
    if not split.any() and (found := column_of_splits(table.rows)):
        print(f"NOTE: column {found!r} of {table.path} has only names of splits, so it is used.")
        split, table.roles["split"] = table.rows[found].map(split_word), [found]
    if not split.any() and (found := perhaps_splits(table.rows)):
        print(f"NOTE: column {found!r} of {table.path} may give a split. It is not used: make a "
              "column `split` of train, validation and test.")  # fmt: skip
    if split.any():
        rows.loc[(split == "") & (rows.reason == ""), "reason"] = "no known split"
    return split


def _by_column(table: Table) -> pd.Series | None:
    """Return each row's split by the first usual column that names any, or None."""
    for column in table.roles["split"]:
        words = table.rows[column].str.strip().str.lower()
        split = words.map(split_word)
        if split.any():
            if unknown := [word for word in words[split == ""].unique() if word]:
                print(f"NOTE: column {column!r} of {table.path} has the words {unknown[:5]}, which "
                      f"name no split. Known are {', '.join(SPLITS)}.")  # fmt: skip
            table.roles["split"] = [column]
            return split
        print(f"NOTE: column {column!r} of {table.path} names no split and is ignored.")
    table.roles["split"] = []
    return None
