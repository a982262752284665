"""Finds ROCO, downloads it or draws its stand-in, and reads the splits."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from roco_caption.core import machine as places
from roco_caption.core.errors import UserError
from roco_caption.data.kaggle import download_roco
from roco_caption.data.phantoms.dataset import make_phantoms

MOST_OF_A_CASE = 10  # images a case on average: of more, what an id starts with names no case
SPLITS = {"train": "traindata.csv", "validation": "valdata.csv", "test": "testdata.csv"}


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
    seed: int = 0,
) -> Source:
    """Choose the data set, and download or draw it where that is needed.

    In this order: `data_dir` where given; on Kaggle the attached data set; in Colab, or where
    `source` is `"kaggle"`, the download; elsewhere the phantoms.

    Args:
        folder: where downloads and phantoms are kept.
        data_dir: a folder that contains `all_data/`, or empty.
        source: `"auto"`, `"kaggle"` or `"phantoms"`.
        platform: `"colab"`, `"kaggle"` or `"local"`.
        phantom_counts: phantoms to draw for training, validation and test.
        seed: of the phantoms.

    Raises:
        UserError: `data_dir` holds no data set, none is attached on Kaggle, or the download failed.
    """
    folder = Path(folder)
    if data_dir:
        root = _containing_all_data(Path(data_dir).expanduser())
        if root is None:
            raise UserError(
                f"DATA_DIR is {data_dir!r}, which does not contain all_data/train/radiology. Give "
                "the folder above all_data, or leave DATA_DIR empty."
            )
        place = str(root.resolve())  # another folder of the same name has caches of its own
        name = f"{root.resolve().name}-{hashlib.sha256(place.encode()).hexdigest()[:6]}"
        return Source(root, name, "Chosen because DATA_DIR names it; empty, DATA_SOURCE decides.")
    if source == "auto" and platform == "kaggle":
        return _attached()
    if source == "kaggle" or (source == "auto" and platform == "colab"):
        why = "ROCO from Kaggle" + ("." if source == "kaggle" else ", the default in Colab.")
        root = download_roco(folder / "roco")
        return Source(
            root, "roco", f"{why} DATA_SOURCE = 'phantoms' would draw a small set instead."
        )
    train, validation, test = phantom_counts
    name = f"phantoms-{train}-{validation}-{test}-seed{seed}"
    root = make_phantoms(folder / name, train=train, validation=validation, test=test, seed=seed)
    reason = "the default outside Colab and Kaggle" if source == "auto" else "as DATA_SOURCE asks"
    why = (
        f"PHANTOMS: synthetic images drawn by this notebook, {reason}. "
        "DATA_SOURCE = 'kaggle' downloads ROCO (6.2 GB); DATA_DIR names a copy that you have."
    )
    return Source(root, name, why, synthetic=True)


def _attached() -> Source:
    root = _containing_all_data(places.KAGGLE_INPUT)
    if root is None:
        raise UserError(
            f"No ROCO under {places.KAGGLE_INPUT}. Attach it (Add Input, search for "
            "'virajbagal/roco-dataset') and run this cell again; or set DATA_SOURCE to 'kaggle' "
            "(downloads 6.2 GB, internet on) or to 'phantoms' (a small synthetic set)."
        )
    return Source(
        root,
        "roco",
        "Chosen because it is attached to this Kaggle notebook. DATA_SOURCE = 'phantoms' would "
        "draw a small set instead.",
    )


def _containing_all_data(top: Path, depth: int = 4) -> Path | None:
    """Return the nearest folder at or below `top` that contains `all_data/train/radiology`."""
    level = [top]
    for _ in range(depth):
        for folder in level:
            if (folder / "all_data" / "train" / "radiology").is_dir():
                return folder
        level = [below for folder in level for below in _folders(folder)]
    return None


def _folders(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:  # not there, or not ours to read
        return


def read_dataset(
    root: str | os.PathLike, limit: int = 0
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Read the three radiology splits.

    Args:
        root: the folder that contains `all_data/`.
        limit: images taken of each split, in the table's order; all when 0.

    Returns:
        {split: DataFrame[id, image, caption]}: `id` is the image's file name without its
        extension, `image` its path, `caption` in one line. And a table, one row a split: how many
        are listed, used, and left out for which reason.

    Raises:
        UserError: a table is missing or is none of ROCO's, or nothing in it can be used.
    """
    frames, counts = {}, {}
    for split in SPLITS:
        frame, reasons = read_split(root, split)
        frames[split] = frame.head(limit) if limit else frame
        counts[split] = {"listed": reasons.size, "used": len(frames[split])}
        counts[split] |= reasons[reasons != ""].value_counts().to_dict()
        counts[split] |= {"over the limit": len(frame) - len(frames[split])} if limit else {}
    return frames, pd.DataFrame.from_dict(counts, orient="index").fillna(0).astype(int)


def read_split(root: str | os.PathLike, split: str) -> tuple[pd.DataFrame, pd.Series]:
    """Read one split; see `read_dataset`.

    Returns:
        DataFrame[id, image, caption], and for every line of the table the reason why it was left
        out, empty where it was not.
    """
    folder = Path(root) / "all_data" / split / "radiology"
    table = _read_table(folder, split)
    names = table["name"].str.strip()
    captions = table["caption"].str.split().str.join(" ")
    ids = names.map(lambda name: PurePath(name).stem)
    present = {entry.name for entry in os.scandir(folder / "images")}
    reasons = pd.Series("", index=table.index)
    reasons[~names.isin(present)] = "image file missing"
    reasons[captions == ""] = "no caption"
    usable = ids[reasons == ""]
    reasons[usable.index[usable.duplicated()]] = "listed twice"
    frame = pd.DataFrame(
        {"id": ids, "image": [str(folder / "images" / name) for name in names], "caption": captions}
    )[reasons == ""].reset_index(drop=True)
    if frame.empty:
        raise UserError(
            f"No image of {folder} can be used ({reasons.value_counts().to_dict()}). Check that "
            "its images were unpacked and that its table has captions."
        )
    return frame, reasons


def _read_table(folder: Path, split: str) -> pd.DataFrame:
    places = [folder / SPLITS[split], folder.parent / f"radiology{SPLITS[split]}"]
    path = next((place for place in places if place.is_file()), None)
    if path is None or not (folder / "images").is_dir():
        missing = f"{folder}/images" if path else " nor ".join(map(str, places))
        raise UserError(
            f"{missing} is missing: unpack the data set there, or name another DATA_DIR."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows longer than the header, whose rest is lost
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding_errors="replace",
                index_col=False,  # else a row longer than the header makes the ids an index
            )  # fmt: skip
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is no readable table ({error}). Unpack it again.") from error
    if not {"name", "caption"} <= set(table.columns):
        raise UserError(
            f"{path} has the columns {list(table.columns)}; ROCO's have id, name and caption."
        )
    return table


def cases_of(ids: pd.Series) -> pd.Series:
    """Return the patient or article that each image belongs to, as far as its id tells.

    That is what stands before the first `_`. Where it tells nothing, as in `ROCO_00001`, each
    image is a case of its own.

    Args:
        ids: of `read_dataset`.
    """
    cases = ids.str.split("_").str[0]
    telling = cases.nunique() > 1 and len(cases) <= MOST_OF_A_CASE * cases.nunique()
    return cases if telling else ids
