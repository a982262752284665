"""Runs: a folder per configuration, found again by its settings and never overwritten by others."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from roco_caption.core.errors import UserError, at_least
from roco_caption.core.files import atomic_path, gigabytes, read_json, write_json
from roco_caption.core.machine import attached, project_commit
from roco_caption.training.checkpoint import (
    BUNDLE,
    CAPTIONS,
    CARD,
    CONSENSUS,
    HISTORY,
    KERAS,
    PREVIOUS,
    RETRAINING,
    SCORES,
    STATE,
    VOCABULARY,
    WEIGHTS,
    notes_of,
)
from roco_caption.training.copies import bring_back_run

RECORD = "settings.json"
LEFT_OUT = {STATE, PREVIOUS, RETRAINING, "tensorboard"}  # of a run's zip
LARGE = 20_000  # captions from which on batches and learning rate are larger
GENTLE = 2e-3  # a higher learning rate is reached from this one, during the first `WARM_UP`
WARM_UP = 0.1  # of the epochs; without it 0.008 left 768 phantoms untrained
DECAY_STEPS = 47  # steps per epoch of the data that the weight decay was chosen on
# Names that others use as well
COMMON = RECORD, HISTORY, CAPTIONS, SCORES, VOCABULARY, CONSENSUS, CARD, KERAS
SHOWN = "batch_size", "learning_rate", "seed", "units", "embedding_size"  # what users change most
LISTED = ["epochs", "val_loss", "CIDEr", "finished"]  # of `list_runs`


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and in which order to train; a UserError names an invalid value."""

    epochs: int = 30  # passes over the training captions
    batch_size: int | str = "auto"  # captions per step: 32, or 256 from `LARGE` captions on
    learning_rate: float | str = "auto"  # its maximum: 2e-3, or 8e-3 from `LARGE` captions on
    weight_decay: float = 0.5  # of AdamW, at up to `DECAY_STEPS` steps per epoch
    patience: int = 6  # epochs of images alone without improvement after which training stops
    seed: int = 0  # of the batches' order

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, patience=self.patience)
        if self.batch_size != "auto":
            at_least(1, batch_size=self.batch_size)
        at_least(0, seed=self.seed)
        if self.learning_rate != "auto":
            at_least(0.0, learning_rate=self.learning_rate)
        at_least(0.0, weight_decay=self.weight_decay)

    def for_captions(self, count: int) -> Schedule:
        """Return the schedule with batch size and learning rate for so many training captions."""
        batch_size, learning_rate = (256, 8e-3) if count >= LARGE else (32, 2e-3)
        return replace(
            self,
            batch_size=batch_size if self.batch_size == "auto" else self.batch_size,
            learning_rate=learning_rate if self.learning_rate == "auto" else self.learning_rate,
        )

    def decay(self, steps: int) -> float:
        """Return AdamW's weight decay per step, for so many steps per epoch.

        Beyond `DECAY_STEPS` it falls in proportion, so weights shrink as much per epoch: with that
        of a small data set, they would lose a quarter in each epoch of ROCO.
        """
        return self.weight_decay * min(1.0, DECAY_STEPS / steps)


class CosineByEpoch(keras.optimizers.schedules.LearningRateSchedule):
    """A cosine decay from `highest` to zero, equally far in each epoch, however long that is.

    Above `GENTLE` the rate rises first. `steps` are those of each epoch.
    """

    def __init__(self, highest: float, steps: Sequence[int]) -> None:
        self.highest, self.steps = highest, list(steps)

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step, counted from 0, float32 ()."""
        lengths = np.array(self.steps, np.float32)
        passed = (ops.cast(step, "float32") - (np.cumsum(lengths) - lengths)) / lengths
        share = ops.sum(ops.clip(passed, 0.0, 1.0)) / len(self.steps)
        rising = GENTLE + max(self.highest - GENTLE, 0.0) * share / WARM_UP
        return ops.minimum(self.highest * 0.5 * (1.0 + ops.cos(math.pi * share)), rising)

    def get_config(self) -> dict[str, Any]:
        return {"highest": self.highest, "steps": self.steps}


def run_folder(
    parent: str | os.PathLike, label: str, record: dict[str, Any], checkpoint_dir: str = "",
    copy: Path | None = None,
) -> Path:  # fmt: skip
    """Return the folder of the run with these settings, and write them to its `settings.json`.

    Its files are brought back from `copy`, and from outputs that are attached on Kaggle. The record
    lists the project's `commits` that worked on the run; they do not decide which run it is.

    Args:
        parent: of the folders of runs, which are named by `label` and a digest.
        label: what a reader recognises the run by.
        record: its settings, for a reader; those in `trainings`, what `train` identifies each
            member's training by, decide which run it is.
        checkpoint_dir: the folder to use instead, unless it holds another training; then the run
            gets a folder below it. UserError if it holds files of others that a run replaces.
        copy: see `backed_up`; the run's own is below it, in `checkpoints/`.
    """
    record = json.loads(json.dumps(record))  # as it is read back: no tuples
    trainings = json.dumps(record["trainings"], sort_keys=True).encode()
    name = f"{label}-{hashlib.sha256(trainings).hexdigest()[:6]}"
    folder = Path(parent) / name
    if checkpoint_dir:
        folder = Path(checkpoint_dir).expanduser().resolve()
        for place in _places(folder, copy):
            if _holds_another(place, record["trainings"]):
                print(f"{place} holds a training with other settings, which is kept.")
                folder /= name
                break
        for place in _places(folder, copy):
            _refuse_others(place)
    _, *earlier = _places(folder, copy)
    if folder.name == name:
        earlier += attached(f"checkpoints/{name}")
    for place in earlier:
        bring_back_run(place, folder)
    commits = [*commits_of(folder), project_commit(Path(__file__).parents[2])]
    write_json(folder / RECORD, record | {"commits": list(dict.fromkeys(commits))}, sealed=True)
    print(f"Files of this run: {folder}")
    return folder


def _places(folder: Path, copy: Path | None) -> list[Path]:
    """Return a run's folder and, if there is one, that of its copy."""
    return [folder, copy / "checkpoints" / folder.name] if copy else [folder]


def record_of(folder: Path) -> dict[str, Any]:
    """Return a run's `settings.json`, {} if it is missing, damaged or of another program."""
    with contextlib.suppress(UserError):
        record = read_json(folder / RECORD)
        return record if isinstance(record, dict) else {}
    return {}


def commits_of(folder: Path) -> list[str]:
    """Return the project's commits that worked on a run, the first one first."""
    commits = record_of(folder).get("commits")  # earlier versions lack them
    return list(map(str, commits)) if isinstance(commits, list) else []


def _holds_another(folder: Path, trainings: list[dict[str, Any]]) -> bool:
    if not any((folder / name).exists() for name in (STATE, PREVIOUS, WEIGHTS)):
        return False
    known = record_of(folder).get("trainings")
    return notes_of(folder).get("settings") != trainings[0] if known is None else known != trainings


def _is_run(folder: Path) -> bool:
    own = (BUNDLE, STATE, PREVIOUS, WEIGHTS)
    return bool(commits_of(folder)) or any((folder / name).exists() for name in own)


def _refuse_others(folder: Path) -> None:
    """Raise a UserError if a folder has files that a run would replace, but is not a run's.

    Folders of something else in it are named in a warning.
    """
    if _is_run(folder) or not folder.is_dir():
        return
    if found := [name for name in COMMON if (folder / name).exists()]:
        raise UserError(
            f"{folder} is not a run's folder, and a run would replace its {', '.join(found)}. "
            "Choose an empty folder as CHECKPOINT_DIR."
        )
    with contextlib.suppress(OSError):  # one that cannot be read
        folders = (path for path in sorted(folder.iterdir()) if path.is_dir())
        others = [path.name for path in folders if path.name[0] != "." and not _has_run(path)]
        if others:
            print(f"WARNING: {folder} also has {', '.join(others[:3])}: the run's zip and its copy "
                  "on Drive contain these. Choose an empty folder as CHECKPOINT_DIR to avoid "
                  "it.")  # fmt: skip


def _has_run(folder: Path) -> bool:
    return any(map(_is_run, (folder, *folder.iterdir())))


def list_runs(parent: str | os.PathLike, copy: Path | None = None) -> pd.DataFrame:
    """Return the runs below a folder, in its copy and attached on Kaggle, the newest first.

    Returns:
        One row per run, by its folder's name: `epochs` done, lowest `val_loss` in nats per word,
        `CIDEr` on the test split, when its captioner was `finished`, empty where unknown; and those
        of `SHOWN` in which the runs differ.
    """
    places = [*attached("checkpoints"), *([copy / "checkpoints"] if copy else []), Path(parent)]
    records = (path for place in places for path in place.glob(f"*/{RECORD}"))
    found = (path.parent for path in records if _is_run(path.parent))
    folders = {folder.name: folder for folder in found}
    rows = {name: _summary(folder) for name, folder in folders.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=LISTED)
    settings = pd.DataFrame.from_dict(
        {name: _settings(folder) for name, folder in folders.items()}, orient="index"
    )
    table = table.join(settings.loc[:, settings.nunique() > 1])
    table.index.name = "run"
    return table.sort_values("finished", ascending=False)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings `SHOWN` of a run, those that its record has."""
    record = record_of(folder)
    with contextlib.suppress(LookupError, TypeError):  # of another program
        known = record["trainings"][0] | record.get("decoder", {})
        return {name: known[name] for name in SHOWN if name in known}
    return {}


def _summary(folder: Path) -> list[Any]:
    history = _column(folder / HISTORY, "val_loss")
    scores = _column(folder / SCORES, "CIDEr")
    bundle = folder / BUNDLE
    when = f"{datetime.fromtimestamp(bundle.stat().st_mtime):%F %T}" if bundle.exists() else ""
    best = f"{min(history):.3f}" if history else ""
    return [len(history), best, f"{scores[0]:.3f}" if scores else "", when]


def _column(path: Path, name: str) -> Sequence[float]:
    try:
        return list(pd.read_csv(path)[name])
    except (OSError, ValueError, KeyError):  # not there yet, or damaged
        return []


def _zips(folder: Path) -> tuple[Path, Path]:
    """Return the name of a run's zip, and the one where a file of that name is not a run's zip."""
    names = f"{folder.name}.zip", f"{folder.name}-captioner.zip"
    return folder.with_name(names[0]), folder.with_name(names[1])


def _is_zip(folder: Path, path: Path) -> bool:
    """Return whether a file has the run in `folder`, and nothing that `zip_run` leaves out."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        kept = all(LEFT_OUT.isdisjoint(Path(name).parts) for name in names)
        return f"{folder.name}/{RECORD}" in names and kept
    return False


def zip_run(folder: str | os.PathLike) -> Path:
    """Write a run's files to `<folder>.zip` beside it, without runs below it or resuming states.

    If a zip of another program has that name, ours is `<folder>-captioner.zip`.
    """
    folder = Path(folder).resolve()
    path, other = _zips(folder)
    if path.exists() and not _is_zip(folder, path):
        path = other
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    runs = {path.parent for path in folder.glob(f"*/**/{RECORD}")}
    zips = {path for run in runs for path in _zips(run)}
    files = [f for f in files if f not in zips and runs.isdisjoint(f.parents)]
    files = [file for file in files if LEFT_OUT.isdisjoint(file.relative_to(folder).parts)]
    with (
        atomic_path(path, size=sum(file.stat().st_size for file in files)) as aside,
        # weights shrink hardly more at higher levels, which take three times as long
        zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for file in files:
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    print(f"{path}: {len(files)} files, {gigabytes(path.stat().st_size)}")
    return path
