"""Locates ROCO, downloads it or draws its synthetic stand-in, and reads the splits."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from roco_caption.core import machine
from roco_caption.core.errors import UserError
from roco_caption.data.archive import TABLES
from roco_caption.data.kaggle import download_roco
from roco_caption.data.phantoms.dataset import make_phantoms

IMAGES_PER_CASE = 10  # if id prefixes average more images than this, they are not case ids
OTHERWISE = "Set DATA_SOURCE = 'phantoms' for a small synthetic set instead."


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
    """Choose the data set, and download or draw it in `folder` where necessary.

    Args:
        data_dir: a folder that contains `all_data/`; if empty, `source` decides.
        source: `"kaggle"` (download), `"phantoms"`, or `"auto"`: the attached data set on Kaggle,
            the download in Colab, phantoms elsewhere.
        phantom_counts, seed: phantoms to draw per split, and their random seed.
    """
    if source not in ("auto", "kaggle", "phantoms"):
        raise UserError(f"DATA_SOURCE must be one of 'auto', 'kaggle', 'phantoms', got {source!r}.")
    if data_dir:
        return _given(data_dir)
    if source == "auto" and platform == "kaggle":
        return _attached()
    if source == "kaggle" or (source == "auto" and platform == "colab"):
        default = "" if source == "kaggle" else ", the default in Colab"
        root = download_roco(Path(folder) / "roco")
        return Source(root, "roco", f"ROCO from Kaggle{default}. {OTHERWISE}")
    train, validation, test = phantom_counts
    name = f"phantoms-{train}-{validation}-{test}-seed{seed}"
    root = Path(folder) / name
    make_phantoms(root, train=train, validation=validation, test=test, seed=seed)
    reason = "the default outside Colab and Kaggle" if source == "auto" else "as DATA_SOURCE asks"
    why = f"PHANTOMS: synthetic images drawn by this notebook, {reason}. Set DATA_SOURCE = "
    why += "'kaggle' to download ROCO (6.2 GB), or DATA_DIR to use your own copy."
    return Source(root, name, why, synthetic=True)


def _given(data_dir: str) -> Source:
    root = _containing_all_data(Path(data_dir).expanduser())
    if root is None:
        raise UserError(
            f"DATA_DIR is {data_dir!r}, which does not contain all_data/train/radiology. Set it to "
            "the folder above all_data, or leave it empty."
        )
    place = root.resolve()  # in the name, so that folders of the same name do not share caches
    name = f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:6]}"
    return Source(root, name, "Chosen by DATA_DIR; if that is empty, DATA_SOURCE decides.")


def _attached() -> Source:
    root = _containing_all_data(machine.KAGGLE_INPUT)
    if root is None:
        raise UserError(
            f"No ROCO under {machine.KAGGLE_INPUT}. Attach it (Add Input, search for "
            "'virajbagal/roco-dataset') and run this cell again; or set DATA_SOURCE to 'kaggle' "
            "(downloads 6.2 GB, internet on) or to 'phantoms' (a small synthetic set)."
        )
    return Source(root, "roco", f"Chosen because this notebook has it attached. {OTHERWISE}")


def _containing_all_data(top: Path) -> Path | None:
    """Return the nearest folder at or below `top` that contains `all_data/train/radiology`."""
    patterns = ["*/" * level + "all_data/train/radiology" for level in range(4)]
    paths = (path for pattern in patterns for path in sorted(top.glob(pattern)) if path.is_dir())
    return next((path.parents[2] for path in paths), None)


def read_dataset(
    root: str | os.PathLike, limit: int = 0
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Read the first `limit` images (0: all) of each radiology split below `root`/all_data.

    Returns:
        {split: DataFrame[id, image, caption]}: the image's file name without extension, its path,
        and the caption in one line. And a table with one row per split: how many images are
        listed, used, and left out for which reason.
    """
    frames, counts = {}, {}
    for split in TABLES:
        frame, reasons = read_split(root, split)
        frames[split] = frame.head(limit) if limit else frame
        counts[split] = {"listed": reasons.size, "used": len(frames[split])}
        counts[split] |= reasons[reasons != ""].value_counts().to_dict()
        counts[split] |= {"over the limit": len(frame) - len(frames[split])} if limit else {}
    return frames, pd.DataFrame.from_dict(counts, orient="index").fillna(0).astype(int)


def read_split(root: str | os.PathLike, split: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return a split as in `read_dataset`, and per row of its table why it is left out, or ""."""
    folder = Path(root) / "all_data" / split / "radiology"
    table = _read_table(folder, split)
    names = table["name"].str.strip()
    captions = table["caption"].str.split().str.join(" ")
    ids = names.map(lambda name: PurePath(name).stem)
    files = {entry.name for entry in os.scandir(folder / "images")}
    reasons = pd.Series("", index=table.index)
    reasons[~names.isin(files)] = "image file missing"
    reasons[captions == ""] = "no caption"
    usable = ids[reasons == ""]
    reasons[usable.index[usable.duplicated()]] = "listed twice"
    images = [str(folder / "images" / name) for name in names]
    frame = pd.DataFrame({"id": ids, "image": images, "caption": captions})[reasons == ""]
    if frame.empty:
        raise UserError(
            f"No image of {folder} can be used ({reasons.value_counts().to_dict()}). Check that "
            "its images are unpacked and that its table has captions."
        )
    return frame.reset_index(drop=True), reasons


def _read_table(folder: Path, split: str) -> pd.DataFrame:
    paths = [folder / TABLES[split], folder.parent / f"radiology{TABLES[split]}"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None or not (folder / "images").is_dir():
        missing = f"{folder}/images" if path else " or ".join(map(str, paths))
        raise UserError(f"{missing} is missing. Unpack the data set there, or change DATA_DIR.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows longer than the header, whose rest is dropped
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, encoding_errors="replace",
                index_col=False,  # or a row longer than the header makes the ids an index
            )  # fmt: skip
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is not a readable table ({error}). Unpack it again.") from error
    columns = list(table.columns)
    if not {"name", "caption"} <= set(columns):
        raise UserError(f"{path} has the columns {columns}; ROCO has id, name and caption.")
    return table


def cases_of(ids: pd.Series) -> pd.Series:
    """Return the patient or article of each image id: the part before the first `_`.

    If those are not case ids, as in `ROCO_00001`, each image is its own case.
    """
    cases = ids.str.split("_").str[0]
    informative = 1 < cases.nunique() >= len(cases) / IMAGES_PER_CASE
    return cases if informative else ids
