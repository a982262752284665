"""Reads a folder of one's own: images, and a table of their captions; splits them if necessary."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.data.dicom import is_dicom
from roco_caption.data.tables import (
    EXTENSION,
    READERS,
    Table,
    match_files,
    read_table,
    without_extension,
)

IMAGES_PER_CASE = 10  # if id prefixes average more images than this, they are not case ids
HIDDEN = re.compile(r"(^|/)(\.|~\$|__MACOSX/)")  # of systems and programs, not of the user
HELD_OUT = 0.1  # share of the images, where there is no test or validation split
WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def tables_in(folder: Path) -> list[Path]:
    """Return the files in a folder, or up to two folders below, that may be tables."""
    paths = (path for level in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(level)))
    return [
        path for path in paths
        if path.suffix.lower() in READERS and path.is_file()
        and not HIDDEN.search(path.relative_to(folder).as_posix())
    ]  # fmt: skip


def _images_in(folder: Path) -> list[str]:
    """Return the images in a folder and below, as relative paths, sorted."""
    walk = os.walk(folder)
    paths = [Path(place, name) for place, _, names in walk for name in names]
    files = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [
        file for file in files
        if not HIDDEN.search(file) and (EXTENSION.search(file) or _is_scan(folder / file))
    ]  # fmt: skip


def _is_scan(path: Path) -> bool:
    return path.suffix.lower() not in READERS and path.is_file() and is_dicom(path)


def read_folder(folder: Path, columns: str = "") -> pd.DataFrame:
    """Read the one table in a folder that names its images.

    Returns:
        As `list_rows`, with `split`, "" where the table does not say it.
    """
    files = _images_in(folder)
    table = _best_table(folder, files, columns)
    print(table)
    rows = list_rows(table, folder, files)
    unlisted = len(set(files) - set(rows.file))
    if unlisted:
        print(f"{unlisted:,} of the {len(files):,} images have no row in the table.")
    rows["split"] = _known_splits(table, rows)
    return rows


def _best_table(folder: Path, files: list[str], columns: str) -> Table:
    """Return the table that names most images, by the column that does."""
    tables, problems, matched = [], [], []
    for path in tables_in(folder):
        try:
            tables.append(read_table(path, columns))
        except UserError as error:
            problems.append(str(error))
    for table in tables:
        of_column = {
            column: {
                found[0] for found in match_files(table.rows[column], files) if len(found) == 1
            }
            for column in table.roles["image"]
        }
        table.roles["image"] = [max(of_column, key=lambda column: len(of_column[column]))]
        matched.append(of_column[table.roles["image"][0]])
    if not tables:
        raise UserError(f"{folder} has no table of images and captions. {' '.join(problems[:3])}")
    best = max(range(len(tables)), key=lambda i: len(matched[i]))
    rivals = [i for i in range(len(tables)) if i != best and not matched[i] < matched[best]]
    rivals = [i for i in rivals if matched[i]]
    if rivals:
        paths = " and ".join(str(tables[i].path) for i in (best, *rivals))
        raise UserError(
            f"{paths} each name images of {folder}. Keep one table there, with all images; a "
            "column `split` may say train, validation or test."
        )
    return tables[best]


def list_rows(table: Table, folder: Path, files: list[str]) -> pd.DataFrame:
    """Return what a table says of the `files` in `folder`, one row per row of it.

    Returns:
        DataFrame[file, image, caption, reason]: the file, relative and as a path; the caption in
        one line; and why the row is left out, or "". And `case`, if a column names the patients.
        Raises a UserError if all rows are left out.
    """
    name = table.roles["image"][0]
    found = match_files(table.rows[name], files)
    captions = table.rows[table.roles["caption"][0]].str.split().str.join(" ")
    file = found.map(lambda files: files[0] if files else "")
    images = [str(folder / name) for name in file]
    rows = pd.DataFrame({"file": file, "image": images, "caption": captions, "reason": ""})
    rows.loc[found.map(len) != 1, "reason"] = "image file missing"
    rows.loc[found.map(len) > 1, "reason"] = "several files of this name"
    rows.loc[captions == "", "reason"] = "no caption"
    rows.loc[table.misfits > 0, "reason"] = "does not fit the header"
    for column in table.roles["patient"]:
        patient = table.rows[column].str.strip()
        rows["case"] = patient.where(patient != "", rows.file)
    usable = rows[rows.reason == ""]
    rows.loc[usable.index[usable.duplicated(["file", "caption"])], "reason"] = "listed twice"
    lines = table.misfits[table.misfits > 0]
    if len(lines):
        print(
            f"NOTE: {len(lines):,} lines of {table.path} have more fields than its header and are "
            f"left out: {', '.join(map(str, lines[:5]))}{', …' if len(lines) > 5 else ''}. Put "
            "captions that contain the separator in quotes."
        )
    if usable.empty:
        examples = [repr(names[0]) for names in (list(table.rows[name]), files) if len(names)]
        raise UserError(
            f"No image of {folder} can be used ({rows.reason.value_counts().to_dict()}). Check "
            f"that its images are unpacked and that its table has captions. {table}. It has the "
            f"columns {list(table.rows.columns)}. A name in it and a file: {', '.join(examples)}."
        )
    return rows


def image_ids(files: Iterable[str]) -> dict[str, str]:
    """Return {file: id} for relative paths: the name without extension, or more of it.

    Images of one name in several folders get their folder before it, `train/001`; those of one
    folder that differ in their extension keep it, `a.png`.
    """
    folders, names = defaultdict(set), defaultdict(set)
    parts = {file: (os.path.dirname(file), os.path.basename(file)) for file in files if file}
    for folder, name in parts.values():
        folders[without_extension(name)].add(folder)
        names[folder, without_extension(name)].add(name)
    ids = {}
    for file, (folder, name) in parts.items():
        stem = without_extension(name)
        short = name if len(names[folder, stem]) > 1 else stem
        ids[file] = f"{folder}/{short}" if folder and len(folders[stem]) > 1 else short
    while len(set(ids.values())) < len(ids):  # each round gives whole paths to two files or more
        count = pd.Series(ids).value_counts()
        ids = {file: file if count[name] > 1 else name for file, name in ids.items()}
    return ids


def cases_of(ids: pd.Series) -> pd.Series:
    """Return the patient or article of each image id: its name before the first `_`, with a digit.

    If those are not case ids, as in `ROCO_00001` or `CT_1`, each image is its own case.
    """
    names = ids.str.rsplit("/", n=1).str[-1]
    cases = names.str.split("_").str[0].where(names.str.contains("_"), ids)
    informative = 1 < cases.nunique() >= ids.nunique() / IMAGES_PER_CASE
    return cases if informative and cases.str.contains(r"\d").all() else ids


def _known_splits(table: Table, rows: pd.DataFrame) -> pd.Series:
    """Return train, validation or test, or "" where the table does not say."""
    for column in table.roles["split"]:
        split = table.rows[column].str.strip().str.lower().map(WORDS).fillna("")
        if split.any():
            rows.loc[(split == "") & (rows.reason == ""), "reason"] = "no known split"
            splits = split[rows.reason == ""].groupby(rows.file).nunique()
            if (splits > 1).any():
                raise UserError(
                    f"{table.path} lists {splits.idxmax()} in several splits. Keep one."
                )
            return split
        print(f"NOTE: column {column!r} of {table.path} has no word for a split and is ignored.")
    return pd.Series("", rows.index)


def complete_splits(rows: pd.DataFrame, seed: int) -> pd.Series:
    """Return each row's split, after holding out images for test and validation if these are empty.

    Whole patients are held out, about a tenth of the training images for each, in the order of a
    hash of the patient and the seed, so that new patients move few of the others. Raises a
    UserError if too few are left.
    """
    used = rows[rows.reason == ""].drop_duplicates("file")
    split = rows.split.where(rows.split != "", "train")
    missing = [name for name in ("test", "validation") if name not in set(split[used.index])]
    cases = used["case"] if "case" in used else cases_of(used.id.astype(str))
    sizes = cases[split[used.index] == "train"].value_counts()
    if "case" not in used and len(sizes) <= len(missing):  # then they are no patients
        cases = used.id
        sizes = cases[split[used.index] == "train"].value_counts()
    unit = "image" if "case" not in used and cases.is_unique else "patient"
    if len(sizes) <= len(missing):
        raise UserError(
            f"{len(sizes)} {unit}s are too few to train on{' and to hold out ' if missing else ''}"
            f"{' and '.join(missing)}. Give {len(missing) + 1} at least, or name their split."
        )
    if not missing:
        return split

    def order(case: str) -> tuple[bool, str]:  # cases of many images are rather trained on
        large = sizes[case] > HELD_OUT * sizes.sum()
        return bool(large), hashlib.sha256(f"{seed} {case}".encode()).hexdigest()

    rest = sorted(sizes.index, key=order)
    middle = (sizes[rest].cumsum() - sizes[rest] / 2) / sizes.sum()
    for i, name in enumerate(missing):
        count = int((middle[rest] < HELD_OUT * (i + 1)).sum())
        count = min(max(1, count), len(rest) - len(missing) + i)  # one at least for each
        held = set(used.file[cases.isin(rest[:count])])
        split[rows.file.isin(held) & (split == "train")] = name
        rest = rest[count:]
    counts = split[used.index].value_counts()
    numbers = ", ".join(f"{counts[name]:,} {name}" for name in ("train", *reversed(missing)))
    print(f"Split by {unit}, SEED = {seed}: {numbers} images.")
    if unit == "image":
        print("NOTE: nothing names the patients, so one may be in training and in test. "
              "COLUMNS = 'patient=…' names their column.")  # fmt: skip
    return split
