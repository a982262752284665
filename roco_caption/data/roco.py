"""Locates ROCO, downloads it or draws its synthetic stand-in, and reads the splits."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from roco_caption.core import machine
from roco_caption.core.errors import UserError
from roco_caption.core.files import files_below, printable
from roco_caption.data.archive import TABLES, TREE
from roco_caption.data.cases import cases_of, folder_cases, row_cases, spelled
from roco_caption.data.choice import tables_in
from roco_caption.data.folder import list_rows, print_left_out, read_folder, without_repeated
from roco_caption.data.images import is_image_file
from roco_caption.data.kaggle import RECORD, download_roco, mounted_by_colab
from roco_caption.data.names import image_ids, match_files
from roco_caption.data.phantoms.dataset import make_phantoms, name_of, set_name
from roco_caption.data.remarks import clean_training
from roco_caption.data.reports import shown_sections
from roco_caption.data.splits import complete_splits
from roco_caption.data.tables import READERS, read_table

SOURCES = "auto", "kaggle", "phantoms"
MANY = 10_000  # training images that take hours without an accelerator
SMALLEST = 60e6  # bytes of features of all of ROCO; a LIMIT's are fewer
NO_GPU = (
    "This machine has no GPU: features of ROCO's 82,000 images would take hours. "
    "Choose a GPU ({}) and run all cells again. Without one: LIMIT = 500 takes a part of ROCO "
    "(after the same download), DATA_SOURCE = 'phantoms' a small synthetic set, and "
    "DATA_SOURCE = 'kaggle' all of ROCO."
)
OTHERWISE = "Set DATA_SOURCE = 'phantoms' for a small synthetic set instead."


def parse_counts(text: str) -> tuple[int, int, int]:
    """Return how many phantoms to train, validate and test on, of a text such as "768,48,300"."""
    counts = [part.strip() for part in text.split(",")]
    if len(counts) != 3 or not all(count.isdecimal() and int(count) for count in counts):
        raise UserError(
            f"PHANTOMS must be three whole numbers above 0 such as '768,48,300', got {text!r}."
        )
    return int(counts[0]), int(counts[1]), int(counts[2])


@dataclass(frozen=True)
class Source:
    """The data set in use: its folder, a name for its caches, and why it was chosen."""

    root: Path
    name: str
    why: str
    synthetic: bool = False

    def __str__(self) -> str:
        return f"Data: {self.root}\n{self.why}"


def locate_dataset(
    folder: str | os.PathLike,
    *,
    data_dir: str = "",
    source: str = "auto",
    platform: str = "local",
    phantom_counts: tuple[int, int, int] = (768, 48, 300),
    limit: int = 0,
    slow: bool = False,
    copy: Path | None = None,
    seed: int = 0,
) -> Source:
    """Choose the data set, and download or draw it in `folder` where necessary.

    `data_dir` is a folder that contains `all_data/`, or images and a table as `read_folder` takes
    them. If it is empty, `source` decides: "kaggle" downloads ROCO, "phantoms" draws
    `phantom_counts` images (training, validation, test), and "auto" is the attached data set on
    Kaggle, the download in Colab, and phantoms elsewhere. A mounted copy replaces the download.
    UserError if there is none, or if "auto" would be all of ROCO on a machine that is `slow`,
    without an accelerator, and its features are neither in `folder`, nor in its `copy`, nor
    attached.
    """
    if source not in SOURCES:
        raise UserError(f"DATA_SOURCE must be one of {', '.join(SOURCES)}, got {source!r}.")
    if data_dir:
        return _given(data_dir)
    slow = slow and not limit and not _has_features(folder, copy)
    if source == "auto" and platform == "kaggle":
        return _attached(slow)
    if source == "auto" and platform == "colab" and slow:
        raise UserError(NO_GPU.format("Runtime, Change runtime type, T4"))
    if source == "kaggle" or (source == "auto" and platform == "colab"):
        default = "" if source == "kaggle" else ", the default in Colab"
        roco = Path(folder) / "roco"
        if not (roco / RECORD).exists() and (root := _mounted(platform)):
            why = f"ROCO from Kaggle{default}: mounted here, so it is not downloaded. {OTHERWISE}"
            return Source(root, "roco", why)
        return Source(download_roco(roco), "roco", f"ROCO from Kaggle{default}. {OTHERWISE}")
    name = set_name(phantom_counts, seed)
    train, validation, test = phantom_counts
    make_phantoms(Path(folder) / name, train=train, validation=validation, test=test, seed=seed)
    reason = "the default outside Colab and Kaggle" if source == "auto" else "as DATA_SOURCE asks"
    why = f"PHANTOMS: synthetic images drawn by this notebook, {reason}. Set DATA_SOURCE = "
    why += "'kaggle' to download ROCO (6.2 GB), or DATA_DIR to use your own copy."
    return Source(Path(folder) / name, name, why, synthetic=True)


def _has_features(folder: str | os.PathLike, copy: Path | None) -> bool:
    """Return whether all of ROCO's features are in `folder`, in its copy, or attached on Kaggle."""
    places = [Path(place) / "features" / "roco" for place in (folder, copy) if place]
    places += machine.attached("features/roco")
    found = (path for place in places for path in place.glob("*.pkl"))
    return any(path.stat().st_size > SMALLEST for path in found)


def _given(data_dir: str) -> Source:
    place = Path(data_dir).expanduser()
    root = next(_containing_all_data(place), None)
    if root is None and tables_in(place):
        root = place
    elif root not in (None, place) and _has_images(place, root):
        root = place  # its own table goes before a data set below
    if root is None:
        raise UserError(
            f"DATA_DIR is {data_dir!r}, which does not contain all_data/train/radiology, nor a "
            f"table of images and captions ({', '.join(READERS)}), nor a text per image, at most "
            "two folders below it. Set it to the folder above all_data, to one with your images "
            "and such files, or leave it empty."
        )
    place = root.resolve()  # in the name, so that folders of the same name do not share caches
    phantoms = name_of(root)
    label = phantoms or printable(place.name)
    name = f"{label}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:6]}"
    reason = "Chosen by DATA_DIR; if that is empty, DATA_SOURCE decides."
    return Source(root, name, reason, synthetic=bool(phantoms))


def _has_images(place: Path, below: Path) -> bool:
    """Return whether a table in a folder names images in it that are not `below`."""
    tables = [path for path in tables_in(place) if path.parent == place]
    paths = (path for path in files_below(place, []) if not path.is_relative_to(below))
    files = [path.relative_to(place).as_posix() for path in paths if tables and is_image_file(path)]
    for path in tables:
        with suppress(UserError):
            table = read_table(path)
            if any(match_files(table.rows[n], files).map(bool).any() for n in table.roles["image"]):
                return True
    return False


def _attached(slow: bool) -> Source:
    if root := _real_data(machine.KAGGLE_INPUT):
        images = root / TREE / "train" / "radiology" / "images"
        if slow and images.is_dir() and len(os.listdir(images)) > MANY:
            raise UserError(NO_GPU.format("Settings, Accelerator"))
        return Source(root, "roco", f"Chosen because this notebook has it attached. {OTHERWISE}")
    raise UserError(
        f"No ROCO under {machine.KAGGLE_INPUT}. Attach it (Add Input, search for "
        "'virajbagal/roco-dataset') and run this cell again; or set DATA_SOURCE to 'phantoms' (a "
        "small synthetic set)."
    )


def _mounted(platform: str) -> Path | None:
    """Return ROCO below `KAGGLE_INPUT`, or in Colab's own cache of Kaggle data; None without."""
    if root := _real_data(machine.KAGGLE_INPUT):
        return root
    place = mounted_by_colab() if platform == "colab" else None
    return place and _real_data(place)


def _containing_all_data(top: Path) -> Iterator[Path]:
    """Yield folders at or below `top` that contain `all_data/train/radiology`, nearest first."""
    for level in range(4):
        paths = sorted(top.glob("*/" * level + f"{TREE}/train/radiology"))
        yield from (path.parents[2] for path in paths if path.is_dir())


def _real_data(top: Path) -> Path | None:
    """Return the nearest of these that are no phantoms, as in an earlier output of the notebook."""
    return next((root for root in _containing_all_data(top) if not name_of(root)), None)


@pd.option_context("mode.string_storage", "python")  # Arrow refuses names that are not Unicode
def read_dataset(
    root: str | os.PathLike, limit: int = 0, *, columns: str = "", seed: int = 1
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Read the captions of ROCO's layout, or else of a folder as `read_folder` takes it.

    `limit` takes the first images of each split, 0 all; `seed` is that of `complete_splits`.
    Reports with headings are cut, see `shown_sections`; training captions are also cleaned, see
    `clean_training`.
    Returns {split: DataFrame[id, image, caption]}, and `case` if the table names patients. Of an
    image with several captions, train and validation have a row for each, test has the first, and
    `references` lists all. And a table with one row per split: how many images are listed, used,
    and left out for which reason, and how many captions they have if that differs.
    """
    root = Path(root)
    if (root / TREE).is_dir():
        splits = [s for s in TABLES if s == "train" or (root / TREE / s).exists()]
        rows = pd.concat([_rows(root, split, columns) for split in splits], ignore_index=True)
    else:
        rows = read_folder(root, columns)
    captions = shown_sections(rows.caption)
    rows["caption"] = [" ".join(text.replace("\0", " ").split()) for text in captions]
    print_left_out(rows)
    rows = rows.dropna(axis="columns", how="all")  # a column of patients may be empty
    if "case" in rows:
        rows["case"] = _patients(rows)
    rows["id"] = rows.file.map(image_ids(rows.file[rows.reason == ""]))
    unit = "patient"
    if "case" not in rows and not (root / TREE).is_dir():
        if (cases := folder_cases(rows)) is not None:
            unit, rows["case"] = "folder", cases
        elif (cases := row_cases(rows)) is not None:
            unit, rows["case"] = "row", cases
    rows["split"] = complete_splits(rows, seed, unit)
    used = rows[rows.reason == ""]
    splits = used.split.groupby(used["case"] if "case" in used else cases_of(used.id)).nunique()
    if shared := (splits > 1).sum():
        by = "" if "case" in rows else ", by the beginnings of file names,"
        print(f"NOTE: {shared:,} of {len(splits):,} patients{by} have images in several splits.")
    return _frames(clean_training(rows), limit)


def _patients(rows: pd.DataFrame) -> pd.Series:
    """Return each row's patient, in one spelling; if the row has none, the image's or its file."""
    same = spelled(rows["case"])
    patient = same.fillna(same.groupby(rows.file).transform("first"))
    if unknown := patient[rows.reason == ""].isna().sum():
        print(f"NOTE: {unknown:,} rows have no patient; each counts as a patient of its own.")
    return patient.fillna(rows.file)


def _frames(rows: pd.DataFrame, limit: int) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    used = rows[rows.reason == ""]
    columns = [name for name in ("id", "image", "caption", "case") if name in rows]
    several = used.id.duplicated().any()
    frames, counts = {}, {}
    for split in TABLES:
        listed, frame = rows[rows.split == split], used.loc[used.split == split, columns]
        kept = frame[frame.id.isin(frame.id.unique()[: limit or None])].reset_index(drop=True)
        counts[split] = {"rows" if several else "listed": len(listed), "used": kept.id.nunique()}
        counts[split] |= {"captions": len(kept)} if several else {}
        counts[split] |= listed.reason[listed.reason != ""].value_counts().to_dict()
        counts[split] |= {"over the limit": frame.id.nunique() - kept.id.nunique()} if limit else {}
        if several:
            kept["references"] = kept.id.map(kept.groupby("id").caption.agg(list))
        frames[split] = kept.drop_duplicates("id") if split == "test" else kept
        frames[split] = frames[split].reset_index(drop=True)
    return frames, pd.DataFrame.from_dict(counts, orient="index").fillna(0).astype(int)


def _rows(root: Path, split: str, columns: str = "") -> pd.DataFrame:
    folder = root / TREE / split / "radiology"
    images = folder / "images"
    paths = [folder / TABLES[split], folder.parent / f"radiology{TABLES[split]}"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None or not images.is_dir():
        missing = images if path else " or ".join(map(str, paths))
        raise UserError(f"{missing} is missing. Unpack the data set there, or change DATA_DIR.")
    table = read_table(path, columns)
    if not table.how.endswith("encoding UTF-8"):  # there is more to say
        print(table)
    rows = list_rows(table, images, [entry.name for entry in os.scandir(images)])
    files = rows.file.map(lambda name: name and f"{split}/{name}")
    return without_repeated(rows.assign(split=split, file=files))
