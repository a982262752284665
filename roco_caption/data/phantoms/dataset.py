"""Generates the default data set in ROCO's layout: images with known findings, and captions.

Each patient has one finding, on one side, small or large; the caption states the truth.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.core.files import atomic_open, lock, read_json, set_aside, write_json, write_text
from roco_caption.core.machine import usable_cpus
from roco_caption.core.progress import progress_bar
from roco_caption.data.archive import TABLES
from roco_caption.data.phantoms.canvas import Lesion
from roco_caption.data.phantoms.patient import FINDINGS, draw, write_caption

SPLITS = tuple(TABLES)
ATTRIBUTES = ("modality", "finding", "side", "size", "arrow")
BOX = ("x0", "y0", "x1", "y1")
RECORD = "phantoms.json"
DRAWING = 2  # increase it whenever the same seed gives other images or captions
ARROW_SHARE = 0.4
MAX_PROCESSES = 8
MIN_IMAGES = 32  # images from which on another process is worth its start
_Listed = tuple[str, int, Path]  # split, index, where to

CASES = tuple(
    (modality, Lesion(finding, side, size))
    for modality, findings in FINDINGS.items()
    for finding in findings
    for side in ("right", "left")
    for size in ("small", "large")
)


class Patient(NamedTuple):
    """What one image shows: the modality, the finding, and whether an arrow points at it."""

    modality: str
    lesion: Lesion
    arrow: bool

    def attributes(self) -> dict[str, str]:
        """Return the value of each of `ATTRIBUTES`."""
        values = (self.modality, *self.lesion, "yes" if self.arrow else "no")
        return dict(zip(ATTRIBUTES, values, strict=True))


def patient(split: str, index: int, *, seed: int = 0) -> Patient:
    """Return the patient at `index` (from 0) of a split, independent of the split's length.

    Each block of `len(CASES)` patients holds every case once, shuffled.
    """
    block, position = divmod(index, len(CASES))
    order = _random(seed, split, block, stream=0).permutation(len(CASES))
    modality, lesion = CASES[order[position]]
    return Patient(modality, lesion, _random(seed, split, index, stream=1).random() < ARROW_SHARE)


def _random(seed: int, split: str, index: int, *, stream: int) -> np.random.Generator:
    """Return a generator; the streams are 0 order of cases, 1 arrows, 2 images, 3 captions."""
    return np.random.default_rng([seed, SPLITS.index(split), index, stream])


def set_name(counts: Iterable[int], seed: int) -> str:
    """Return the name of a set of phantoms, such as "phantoms-768-48-300-seed1"."""
    return "-".join(["phantoms", *map(str, counts), f"seed{seed}"])


def is_set_name(name: str) -> bool:
    """Return whether a data set's name is a `set_name`, perhaps followed by a digest."""
    return re.fullmatch(r"phantoms-\d+-\d+-\d+-seed\d+(-[0-9a-f]{6})?", name) is not None


def name_of(folder: Path) -> str:
    """Return the name of the phantoms in a folder, "" if it has others."""
    try:
        record = read_json(folder / RECORD)
        return set_name([record[split] for split in SPLITS], record["seed"])
    except (UserError, LookupError, TypeError):  # missing, damaged, or of another program
        return ""


def make_phantoms(
    folder: str | os.PathLike,
    *,
    train: int,
    validation: int,
    test: int,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Draw the data set in ROCO's layout, or reuse what an earlier call has drawn; return `folder`.

    It gets `all_data`, `attributes.csv` (the truth: a row per image with its `ATTRIBUTES` and the
    finding's `BOX` in pixels) and `phantoms.json` (the settings, and whether the set is complete).
    An interrupted call is resumed; images of other settings are removed.
    """
    folder = Path(folder)
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    settings = {"drawing": DRAWING, "seed": seed, **counts}
    if min(settings.values()) < 0:
        raise UserError(f"The seed and the numbers of images must be at least 0, got {settings}.")
    with lock(folder.with_name(f".{folder.name}.lock"), "drawing phantoms"):
        complete = _prepare(folder, settings)
        missing = [
            (split, index, path)
            for split, count in counts.items()
            for index, path in enumerate(_paths(folder, split, count))
            if not path.exists()
        ]
        if missing or not complete:
            for leftover in folder.rglob(".*.tmp"):  # a killed process leaves half a file
                leftover.unlink(missing_ok=True)
            _draw_all(missing, seed, progress and bool(missing))
            _write_tables(folder, counts, seed)
            write_json(folder / RECORD, {**settings, "complete": True}, sealed=True)
    return folder


def _prepare(folder: Path, settings: dict[str, int]) -> bool:
    """Remove images of other settings; return whether the set's tables are complete.

    The record changes after the images are gone, so an interruption never leaves a wrong record.
    """
    record_path, data = folder / RECORD, folder / "all_data"
    if data.exists() and not record_path.exists():
        raise UserError(
            f"{data} holds another data set and was not changed. Choose another folder for the "
            "phantoms, or delete it."
        )
    try:
        record = read_json(record_path) if record_path.exists() else {}
    except DamagedFile as error:
        set_aside(record_path, error.why, "The phantoms are drawn again.")
        record = {}
    complete = record.pop("complete", False)
    if record != settings:
        if data.exists():
            shutil.rmtree(data)
        write_json(record_path, {**settings, "complete": False}, sealed=True)
        return False
    tables = [_radiology(folder, s) / name for s in SPLITS for name in (TABLES[s], "captions.txt")]
    return complete and all(path.exists() for path in (*tables, folder / "attributes.csv"))


def _radiology(folder: Path, split: str) -> Path:
    return folder / "all_data" / split / "radiology"


def _paths(folder: Path, split: str, count: int) -> list[Path]:
    images = _radiology(folder, split) / "images"
    return [images / f"PHANTOM_{split}_{index:05d}.jpg" for index in range(count)]


def _draw_all(images: Sequence[_Listed], seed: int, progress: bool) -> None:
    """Draw images in a process per CPU; in threads, NumPy's small steps wait for each other."""
    count = max(1, min(MAX_PROCESSES, usable_cpus(), len(images) // MIN_IMAGES))
    helpers = []
    with (
        ExitStack() as stack,
        progress_bar(
            total=len(images), desc="drawing phantoms", unit="image", disable=not progress
        ) as bar,
    ):
        for k in range(1, count):
            with suppress(OSError):  # this process draws all then
                helpers.append(stack.enter_context(_drawing_elsewhere(images[k::count], seed)))
        for image in images[::count]:
            _draw_one(image, seed)
            bar.update(min(1 + len(helpers), len(images) - bar.n))  # the others are as fast
        for helper in helpers:
            helper.wait()
    left = [image for image in images if not image[2].exists()]  # by a helper that failed
    for image in progress_bar(left, desc="drawing the rest", disable=not (progress and left)):
        _draw_one(image, seed)


@contextmanager
def _drawing_elsewhere(images: Sequence[_Listed], seed: int) -> Iterator[subprocess.Popen]:
    """Draw images in another process, which ends with the block."""
    listed = json.dumps(
        [os.getpid(), seed, [(split, index, str(path)) for split, index, path in images]]
    )
    search = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable or "", "-P", "-c", f"import {__name__} as dataset; dataset.draw_listed()"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))},
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,  # an interrupt of the notebook is not for it
    )  # fmt: skip
    try:
        with suppress(BrokenPipeError), process.stdin as stdin:  # type: ignore[union-attr]
            stdin.write(listed)
        yield process
    finally:
        process.kill()
        process.wait()


def draw_listed() -> None:
    """Draw the images that `_drawing_elsewhere` lists on standard input, while that lives."""
    starter, seed, images = json.load(sys.stdin)
    for split, index, path in images:
        if os.name == "posix" and os.getppid() != starter:  # killed: others may draw here now
            break
        _draw_one((split, index, Path(path)), seed)


def _draw_one(image: _Listed, seed: int) -> None:
    split, index, path = image
    modality, lesion, arrow = patient(split, index, seed=seed)
    picture = draw(modality, lesion, _random(seed, split, index, stream=2), arrow=arrow)
    encoded = io.BytesIO()
    box = " ".join(map(str, picture.info["box"]))  # read again by _write_tables
    picture.save(encoded, "JPEG", quality=92, comment=box)
    with atomic_open(path) as file:
        file.write(encoded.getvalue())


def _write_tables(folder: Path, counts: dict[str, int], seed: int) -> None:
    """Write the captions of every split, and the truth behind them."""
    truth: list[tuple[str, ...]] = [("id", "split", *ATTRIBUTES, *BOX)]
    for split, count in counts.items():
        rows, lines = [("id", "name", "caption")], []
        for index, path in enumerate(_paths(folder, split, count)):
            person, rng = patient(split, index, seed=seed), _random(seed, split, index, stream=3)
            caption = write_caption(person.modality, person.lesion, rng, arrow=person.arrow)
            rows.append((path.stem, path.name, caption))
            lines.append(f"{path.stem}\t {caption}\n")
            with Image.open(path) as image:
                box = image.info["comment"].decode("ascii").split()
            truth.append((path.stem, split, *person.attributes().values(), *box))
        _write_csv(_radiology(folder, split) / TABLES[split], rows)
        write_text(_radiology(folder, split) / "captions.txt", "".join(lines))
    _write_csv(folder / "attributes.csv", truth)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
