"""Draws the embedded default data set: radiographs with known findings and captions for them.

Each patient has one finding, on one side, small or large; `phantom_anatomy` draws it and
`phantom_captions` says it. The folder is laid out as ROCO is, so whatever reads ROCO reads this;
and as every caption states what was drawn, a model's captions can be checked against the truth.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import atomic_open, lock, read_json, set_aside, write_json, write_text
from roco_caption.core.progress import progress_bar
from roco_caption.data.phantoms.canvas import Lesion
from roco_caption.data.phantoms.patient import FINDINGS, draw, write_caption

SPLITS = ("train", "validation", "test")
TABLES = {"train": "traindata.csv", "validation": "valdata.csv", "test": "testdata.csv"}
MODALITIES = tuple(FINDINGS)
SIDES = ("right", "left")
SIZES = ("small", "large")

ATTRIBUTES = ("modality", "finding", "side", "size", "arrow")
BOX = ("x0", "y0", "x1", "y1")
DRAWING = 2  # raise it whenever the same seed would draw or say something else
ARROW_SHARE = 0.4


class Patient(NamedTuple):
    """What one image shows: the modality, the finding, and whether an arrow points at it."""

    modality: str
    lesion: Lesion
    arrow: bool

    def attributes(self) -> dict[str, str]:
        """Return the truth in the words of `attributes_of`."""
        values = (self.modality, *self.lesion, "yes" if self.arrow else "no")
        return dict(zip(ATTRIBUTES, values, strict=True))


# Every pair of a finding and a side comes up equally often, small as often as large.
CASES = tuple(
    (modality, Lesion(finding, side, size))
    for modality, findings in FINDINGS.items()
    for finding in findings
    for side in SIDES
    for size in SIZES
)


def patient(split: str, index: int, *, seed: int = 0) -> Patient:
    """Return who the `index`-th patient of a split is, whatever the split's length.

    Args:
        split: one of `SPLITS`.
        index: counts from 0; each run of `len(CASES)` holds every case once, shuffled.
        seed: of the data set, at least 0.
    """
    block, place = divmod(index, len(CASES))
    order = _random(seed, split, block, stream=0).permutation(len(CASES))
    modality, lesion = CASES[order[place]]
    return Patient(modality, lesion, _random(seed, split, index, stream=1).random() < ARROW_SHARE)


def _random(seed: int, split: str, index: int, *, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index, stream])


# ------------------------------------------------------------------------------------- the folder


def make_phantoms(
    folder: str | os.PathLike,
    *,
    train: int = 900,
    validation: int = 100,
    test: int = 300,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Draw the data set in ROCO's layout, or reuse what an earlier call has drawn.

    Args:
        folder: where `all_data` goes, and beside it `attributes.csv` (the truth, one row an image:
            what it shows, and in which box of pixels, `BOX`) and `phantoms.json` (the settings, and
            whether the set is complete). Images that an
            interrupted call left are kept, those of other settings are removed.
        train: number of training images, about 20 milliseconds each on one core.
        validation: number of validation images.
        test: number of test images.
        seed: at least 0. An image depends on it, its split and its place there, on nothing else.
        progress: whether a bar shows while images are drawn.

    Returns:
        The folder.

    Raises:
        UserError: `folder` holds other data, a number is negative, or a file cannot be written.
    """
    folder = Path(folder)
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    settings = {"drawing": DRAWING, "seed": seed, **counts}
    if min(settings.values()) < 0:
        raise UserError(f"The seed and numbers of images must be at least 0, not {settings}.")
    with lock(folder.with_name(f".{folder.name}.lock"), "drawing phantoms"):
        complete = _claim(folder, settings)
        missing = [image for image in _images(folder, counts) if not image[2].exists()]
        if missing or not complete:
            for left in folder.rglob(".*.tmp"):  # half a file, of a process that was killed
                left.unlink()
            _draw_all(missing, seed, progress and bool(missing))
            _write_tables(folder, counts, seed)
            write_json(folder / "phantoms.json", {**settings, "complete": True}, sealed=True)
    return folder


def _claim(folder: Path, settings: dict[str, int]) -> bool:
    """Make `folder` ready for a set of these settings; return whether its tables are complete.

    Images of other settings are removed before the record says whose images are there, so that an
    interruption never leaves one set's images under another set's record.
    """
    record, data = folder / "phantoms.json", folder / "all_data"
    if data.exists() and not record.exists():
        raise UserError(
            f"{data} holds another data set, which was left alone. Choose another folder for the "
            "phantoms, or delete that one."
        )
    found = _read_record(record)
    if {**found, "complete": False} != {**settings, "complete": False}:
        if data.exists():
            shutil.rmtree(data)
        write_json(record, {**settings, "complete": False}, sealed=True)
        return False
    return bool(found["complete"]) and all(path.exists() for path in _tables(folder))


def _read_record(record: Path) -> dict[str, int]:
    try:
        return read_json(record) if record.exists() else {}
    except DamagedFile as error:
        set_aside(record, error.why, "The phantoms are drawn again.")
        return {}


def _images(folder: Path, counts: dict[str, int]) -> Iterator[tuple[str, int, Path]]:
    """Yield split, index and path of every image of the set."""
    for split, count in counts.items():
        for index in range(count):
            yield split, index, _radiology(folder, split) / "images" / f"{_name(split, index)}.jpg"


def _tables(folder: Path) -> Iterator[Path]:
    for split, table in TABLES.items():
        yield _radiology(folder, split) / table
        yield _radiology(folder, split) / "captions.txt"
    yield folder / "attributes.csv"


def _radiology(folder: Path, split: str) -> Path:
    return folder / "all_data" / split / "radiology"


def _name(split: str, index: int) -> str:
    return f"PHANTOM_{split}_{index:05d}"


def _draw_all(images: Sequence[tuple[str, int, Path]], seed: int, progress: bool) -> None:
    """Draw the images, each to its path, several at a time."""

    def draw_one(image: tuple[str, int, Path]) -> None:
        split, index, path = image
        who = patient(split, index, seed=seed)
        rng = _random(seed, split, index, stream=2)
        picture = draw(who.modality, [who.lesion], rng, arrow=who.arrow)
        encoded = io.BytesIO()
        # only drawing tells where the finding is, so the file remembers it for the table
        box = " ".join(map(str, picture.info["boxes"][0]))
        picture.save(encoded, "JPEG", quality=92, comment=box)
        with atomic_open(path) as file:
            file.write(encoded.getvalue())

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and Pillow let other threads run
        drawn = pool.map(draw_one, images)
        for _ in progress_bar(
            drawn, desc="drawing phantoms", total=len(images), disable=not progress, unit="image"
        ):
            pass


def _write_tables(folder: Path, counts: dict[str, int], seed: int) -> None:
    """Write the captions of every split, and the truth behind them."""
    truth: list[tuple[str, ...]] = [("id", "split", *ATTRIBUTES, *BOX)]
    for split, count in counts.items():
        rows, lines = [("id", "name", "caption")], []
        for index in range(count):
            name, who = _name(split, index), patient(split, index, seed=seed)
            rng = _random(seed, split, index, stream=3)
            caption = write_caption(who.modality, who.lesion, rng, arrow=who.arrow)
            rows.append((name, f"{name}.jpg", caption))
            lines.append(f"{name}\t {caption}\n")
            box = _box(_radiology(folder, split) / "images" / f"{name}.jpg")
            truth.append((name, split, *who.attributes().values(), *box))
        _write_csv(_radiology(folder, split) / TABLES[split], rows)
        write_text(_radiology(folder, split) / "captions.txt", "".join(lines))
    _write_csv(folder / "attributes.csv", truth)


def _box(path: Path) -> list[str]:
    """Return the numbers of the box that an image's file remembers."""
    with Image.open(path) as image:
        return image.info["comment"].decode("ascii").split()


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
