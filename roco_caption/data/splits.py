"""Finds the split that a name means; holds out images for test and validation if none is given."""

import hashlib
import os
import re
from pathlib import Path

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import printable
from roco_caption.data.cases import cases_of
from roco_caption.data.columns import plain
from roco_caption.data.names import match_files, without_extension

SPLITS = {  # also in German, French, Spanish, Italian and Portuguese
    **dict.fromkeys((
        "train", "training", "trainings", "trainingsdaten", "entrainement", "entraînement",
        "entrenamiento", "addestramento", "treino", "treinamento"), "train"),
    **dict.fromkeys((
        "val", "valid", "validation", "validate", "dev", "validierung", "validierungs",
        "validierungsdaten", "validación", "validacion", "validazione", "validação", "validacao"),
        "validation"),
    **dict.fromkeys(("test", "testing", "testdaten", "prueba", "teste"), "test"),
}  # fmt: skip
NEUTRAL = {  # words that may stand beside them
    "", "bilder", "captions", "data", "dataset", "daten", "dicom", "files", "ids", "image",
    "images", "img", "imgs", "jpg", "labels", "list", "png", "radiology", "reports", "scans", "set",
    "split",
}  # fmt: skip
TABLE = re.compile(r"\.(?:csv|jsonl?|ndjson|numbers|ods|parquet|psv|tab|tsv|txt|xls[bmx]?)$")
FEW = 0.1  # of the images, whose folders name no split
HELD_OUT = 0.1  # share of the images, where there is no test or validation split


def split_word(path: str, *, alone: bool = False) -> str:
    """Return the split that a path names, as "val/images", "val2017" and "val.csv" do, else "".

    With `alone`, only if the name has no other word, unlike "test_protocol.txt".
    """
    parts = TABLE.sub("", path.lower()).split("/")[::-1]
    words = [set(re.split(r"[\W_\d]+", part)) for part in parts]
    for others in (NEUTRAL,) if alone else (NEUTRAL, None):  # "stress test" may be below "train"
        for some in words:
            splits = {SPLITS[word] for word in some & SPLITS.keys()}
            if len(splits) == 1 and (others is None or some - SPLITS.keys() <= others):
                return splits.pop()
    return ""


def without_splits(path: str) -> str:
    """Return a path in small letters without the names of splits, "chest_.csv" of several."""
    return re.sub(rf"(?<![a-z])(?:{'|'.join(SPLITS)})(?![a-z])", "", path.lower())


def split_of_folders(files: pd.Series) -> pd.Series:
    """Return the split that the folder of each file names, "" where none does.

    If folders such as "2023" name none, folders such as "2022_test_run" do not either, unless those
    have few images.
    """
    folders = files.map(os.path.dirname)
    split = folders.map(split_word)
    if (split == "").mean() > FEW:
        strict = folders.map(lambda folder: split_word(folder, alone=True))
        if not split.equals(strict):
            other = folders[split == ""].iloc[0] or "."
            print(f"NOTE: folders such as {other} name no split, so others "
                  f"such as {folders[split != strict].iloc[0]} are not taken for one.")  # fmt: skip
            return strict
    return split


def perhaps_splits(rows: pd.DataFrame) -> str | None:
    """Return a column that names train and test beside other words, or is called `is_test`."""
    for column in rows:
        words = rows[column].str.strip().unique()
        splits = {split_word(word, alone=True) for word in words} if len(words) <= 10 else set()
        called = re.fullmatch(r"(?:is|in|for)?(?:train|training|test|testset)", plain(column))
        if {"train", "test"} <= splits or (called and len(words) == 2):
            return column
    return None


def column_of_splits(rows: pd.DataFrame) -> str | None:
    """Return a column of another name than usual whose cells all name splits, one of them train."""
    for column in rows:
        words = rows[column].unique()
        if 1 < len(words) <= len(SPLITS):
            splits = {split_word(word.strip(), alone=True) for word in words}
            if "train" in splits and len(splits) > 1 and "" not in splits:
                return column
    return None


def listed_splits(folder: Path, files: list[str]) -> tuple[dict[str, str], set[Path]]:
    """Return {file: split} of text files such as train.txt that list names, and these text files.

    They are at the top, or in the only folder with such lists, if these name nearly all files.
    Empty unless there is one for training, and another. UserError if a file is in two of them.
    """
    images = {without_extension(file) for file in files}
    lists = _listed_in(folder, folder, files, images)
    if not _are_splits(lists):
        texts = [path for path in folder.glob("*/*.txt") if split_word(path.name, alone=True)]
        below = [_listed_in(place, folder, files, images) for place in {p.parent for p in texts}]
        below = [each for each in below if _are_splits(each) and _splits_most(each, files)]
        if len(below) != 1:
            return {}, set()
        lists = below[0]
    pairs = lists.drop_duplicates(["file", "split"])
    if (twice := pairs[pairs.file.duplicated(keep=False)].sort_values("file")).size:
        raise UserError(
            f"{twice.file.iloc[0]} is in {' and '.join(map(str, twice.path[:2]))}. Remove it from "
            "one."
        )
    return dict(zip(pairs.file, pairs.split, strict=True)), {*lists.path}


def _are_splits(lists: pd.DataFrame) -> bool:
    return "train" in lists.split.values and lists.split.nunique() > 1


def _splits_most(lists: pd.DataFrame, files: list[str]) -> bool:
    """Return whether lists have most files, none in two splits, as those of several folds have."""
    lists = lists.drop_duplicates(["file", "split"])
    return lists.file.is_unique and len(lists) > 0.9 * len(files)


def _listed_in(place: Path, folder: Path, files: list[str], images: set[str]) -> pd.DataFrame:
    """Return DataFrame[file, split, path] of the text files in a folder that list names."""
    rows = []
    for path in sorted(filter(Path.is_file, place.glob("*.txt"))):
        split = split_word(path.name, alone=True)
        if split and path.relative_to(folder).with_suffix("").as_posix() not in images:
            lines = path.read_text("utf-8", "replace").splitlines()
            names = pd.Series([line.strip() for line in lines if line.strip()], dtype=str)
            found = match_files(names, files)
            single = [one[0] for one in found if len(one) == 1]
            if len(single) > 0.9 * len(found):
                rows += [(file, split, path) for file in single]
    return pd.DataFrame(rows, columns=["file", "split", "path"])


def complete_splits(rows: pd.DataFrame, seed: int, unit: str = "patient") -> pd.Series:
    """Return each row's split, after holding out images for test and validation if these are empty.

    Whole patients are held out, about a tenth of the training images for each, in the order of a
    hash of the patient and the seed, so that new patients move few of the others. `unit` is what
    cases are called. Raises a UserError if too few are left.
    """
    used = rows[rows.reason == ""].drop_duplicates("file")
    split = rows.split.where(rows.split != "", "train")
    missing = [name for name in ("test", "validation") if name not in set(split[used.index])]
    train = used[split[used.index] == "train"]
    cases = train["case"] if "case" in used else cases_of(used.id.astype(str))[train.index]
    if "case" not in used and (cases.is_unique or cases.nunique() <= len(missing)):
        unit, cases = "image", train.file  # an id changes if another folder gets a file of its name
    sizes = cases.value_counts()
    if len(sizes) <= len(missing):
        raise UserError(
            f"{len(sizes)} {unit}s are too few to train on and to hold out images for test and "
            f"validation. Give {len(missing) + 1} at least, or a column `split`; or rename the "
            "column of patients if it names something else."
        )
    if not missing:
        return split
    # cases of many images are rather trained on
    seeded = {case: printable(f"{seed} {case}").encode() for case in sizes.index}
    hashes = {case: hashlib.sha256(name).hexdigest() for case, name in seeded.items()}
    order = sorted(hashes, key=lambda case: (sizes[case] > HELD_OUT * len(train), hashes[case]))
    middle = (sizes[order].cumsum() - sizes[order] / 2) / len(train)
    taken = 0
    for i, name in enumerate(missing):
        count = max(taken + 1, int((middle < HELD_OUT * (i + 1)).sum()))  # one at least for each
        count = min(count, len(order) - len(missing) + i)
        held = set(train.file[cases.isin(order[taken:count])])
        split[rows.file.isin(held)] = name
        taken = count
    counts = split[used.index].value_counts()
    numbers = ", ".join(f"{counts[name]:,} {name}" for name in ("train", *reversed(missing)))
    print(f"Split by {unit}, SEED = {seed}: {numbers} images.")
    if unit == "image":
        print("NOTE: no known column names the patients, so one may be in training and in test. "
              "COLUMNS = 'patient=…' names their column.")  # fmt: skip
    elif "case" not in used:
        alike = cases[cases.duplicated()].iloc[0]
        print(f"NOTE: images whose names begin alike, such as {alike}…, count as one patient's. "
              "COLUMNS = 'patient=…' names the patients' column.")  # fmt: skip
    return split
