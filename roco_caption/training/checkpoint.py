"""A training's state: what a checkpoint holds, how it is saved, checked and resumed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from roco_caption.core.errors import DamagedFile, UserError, first_line
from roco_caption.core.files import atomic_open, atomic_path, make_folder, set_aside, write_text
from roco_caption.core.pickles import seal, verify

WEIGHTS = "captioner.weights.h5"
STATE = "training_state.npz"
PREVIOUS = "training_state.previous.npz"  # one save older, in case the newest is damaged
HISTORY = "history.csv"
BUNDLE, VOCABULARY, CONSENSUS = "captioner.json", "tokenizer.json", "consensus.npz"
CAPTIONS, SCORES, CARD, KERAS = "captions.csv", "scores.csv", "model_card.md", "decoder.keras"
MADE = BUNDLE, CONSENSUS, CAPTIONS, SCORES, CARD, KERAS  # with a training's weights
RETRAINING = "retraining"  # below a run's folder: the training that replaces its own when finished


def member_folders(folder: str | os.PathLike, count: int) -> list[Path]:
    """Return the folders of the members' trainings; the first member's is the run's own folder."""
    return [Path(folder), *(Path(folder) / f"member{k + 1}" for k in range(1, count))]


@dataclass
class Progress:
    """A training's progress, beside the variables of the model and its optimizer.

    Attributes:
        settings: what identifies the training.
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        loss: summed over the words of this epoch so far, in nats.
        words: of this epoch so far.
        best: lowest validation loss of an epoch, in nats per word.
        waited: epochs since then, those with captions without images not counted.
        finished: whether the training is complete.
        history: one row per epoch.
        weights_file: checksum of the weights file of the best epoch, "" if it is not written yet.
        weights: the model's weights of that epoch. The weights file is a copy for the captioner;
            these count, so that weights and history cannot come from two trainings.
    """

    settings: dict[str, Any]
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    words: int = 0
    best: float = math.inf
    waited: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    weights_file: str = ""
    weights: list[np.ndarray] = field(default_factory=list)


def variables_of(model: keras.Model) -> list[Any]:
    """Return all variables that training changes, the random state of dropout included."""
    optimizer = getattr(model, "optimizer", None)
    return [*model.variables, *(optimizer.variables if optimizer else ())]


def learnt_variables(model: keras.Model) -> list[Any]:
    """Return the model's variables that training changes, the random state of dropout included."""
    constant = {id(variable) for variable in model.non_trainable_weights}
    return [variable for variable in model.variables if id(variable) not in constant]


def save_state(model: keras.Model, folder: Path, progress: Progress) -> None:
    """Write the state that training resumes from; the one before is kept as `PREVIOUS`.

    Of a finished training only the best weights are left, a quarter of the bytes.
    """
    variables = [] if progress.finished else variables_of(model)
    arrays = {f"now_{i}": np.asarray(v) for i, v in enumerate(variables)}
    arrays |= {f"best_{i}": array for i, array in enumerate(progress.weights)}
    notes = {name: value for name, value in vars(progress).items() if name != "weights"}
    size = sum(array.nbytes for array in arrays.values())
    with atomic_open(folder / STATE, size=size) as file:
        np.savez(file, progress=np.array(json.dumps(notes)), **arrays)
        # a full disk is noticed before the older state is renamed, and no state is missing for long
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            (folder / STATE).replace(folder / PREVIOUS)


def write_history(folder: Path, progress: Progress) -> None:
    """Write `history.csv`, unless it has these rows already."""
    path, text = folder / HISTORY, pd.DataFrame(progress.history).to_csv(index=False)
    with contextlib.suppress(OSError, ValueError):  # missing or damaged
        if path.read_text("utf-8") == text:
            return
    write_text(path, text)


def save_best(model: keras.Model, folder: Path, progress: Progress) -> None:
    """Keep the model's weights as the best so far, in `progress` and in the captioner's file."""
    weights, path = model.get_weights(), folder / WEIGHTS
    plain = keras.Model(model.inputs, model.outputs)  # of `model`, Keras adds the optimizer's
    size = sum(array.nbytes for array in weights)
    with atomic_path(path, size=size, ending=".weights.h5") as aside:
        _prove_room(aside, size)
        plain.save_weights(aside)
        checksum = seal(aside)
    progress.weights, progress.weights_file = weights, checksum


def _prove_room(path: Path, size: int) -> None:
    """Raise an OSError unless a weights file fits: on a full disk HDF5 crashes Python."""
    left = size + size // 20 + (256 << 10)  # HDF5 adds some kilobytes per layer
    with open(path, "wb") as file:  # not posix_fallocate, which some network drives lack
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))


def load_best(model: keras.Model, folder: Path, progress: Progress) -> None:
    """Give the model the best weights, and write other files again if they differ from these."""
    if not progress.weights:
        raise UserError(
            f"No epoch in {folder} had a finite validation loss. Lower LEARNING_RATE, or check the "
            "validation images' features for outliers."
        )
    model.set_weights(progress.weights)
    write_history(folder, progress)
    if progress.weights_file and _is_written(folder / WEIGHTS, progress.weights_file):
        return
    save_best(model, folder, progress)
    if progress.finished:  # else the model does not have the variables of its last step
        save_state(model, folder, progress)


def _is_written(path: Path, checksum: str) -> bool:
    """Return whether a weights file has this checksum; a damaged one is set aside."""
    remedy = f"It is written again from {STATE}."
    try:
        if verify(path) == checksum:
            return True
        print(f"{path} belongs to another training. {remedy}")
    except DamagedFile as error:
        set_aside(path, error.why, remedy)
    except UserError as error:
        print(f"{error} {remedy}")
    return False


def notes_of(folder: Path) -> dict[str, Any]:
    """Return the `Progress` of the training in a folder, {} if its states cannot be read."""
    return notes_in(folder / STATE) or notes_in(folder / PREVIOUS)


def notes_in(path: Path) -> dict[str, Any]:
    """Return the `Progress` in a state, {} if it cannot be read."""
    # a damaged file can raise nearly anything
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
        return dict(json.loads(str(file["progress"])))
    return {}


def is_begun(folder: Path) -> bool:
    """Return whether a folder has a training that is not finished, or one that is to replace it."""
    return (folder / RETRAINING).exists() or notes_of(folder).get("finished") is False


def begin_or_resume(
    model: keras.Model, folder: Path, settings: dict[str, Any], retrain: bool
) -> tuple[Path, Progress]:
    """Return where to train, and the progress made there; a captioner stays until it is replaced.

    That is the run's folder; or `RETRAINING` below it, with `retrain` if this training is finished
    or the folder has another, or without it if there is a captioner but no state.
    """
    again, saved = folder / RETRAINING, notes_of(folder)
    empty = not saved and not (folder / WEIGHTS).exists()
    stopped = saved.get("settings") == settings and not saved["finished"]
    if not retrain or (not again.exists() and (empty or stopped)):
        progress = resume(model, folder, settings)
        if progress.epoch or progress.step or not (folder / BUNDLE).exists():
            return folder, progress
    if retrain and notes_of(again).get("settings", settings) != settings:
        shutil.rmtree(again)
    print(f"Retraining in {again}; {folder} stays as it is until that is finished.")
    return again, resume(model, make_folder(again), settings)


def replace_run(folder: Path) -> None:
    """Move a finished training from `RETRAINING`, if one is there, to its run's folder.

    What was made with the earlier weights is removed first; the state is moved last.
    """
    for name in MADE if (folder / RETRAINING).exists() else ():
        (folder / name).unlink(missing_ok=True)
    for name in (HISTORY, WEIGHTS, PREVIOUS, STATE):
        with contextlib.suppress(FileNotFoundError):
            (folder / RETRAINING / name).replace(folder / name)
    shutil.rmtree(folder / RETRAINING, ignore_errors=True)


def resume(model: keras.Model, folder: Path, settings: dict[str, Any]) -> Progress:
    """Load the state of this training into the compiled model, and print what happens.

    Returns:
        The progress; that of a new training where there is no state.

    Raises:
        UserError: the state is of a training with other settings.
    """
    paths = [path for path in (folder / STATE, folder / PREVIOUS) if path.exists()]
    for path in paths:
        try:
            progress, arrays = _read(path, model, settings)
        except MemoryError:
            raise  # the file is in order
        except Exception as error:  # a damaged file can raise nearly anything
            if getattr(error, "errno", None) is not None:
                raise UserError(
                    f"{path} could not be read ({first_line(error)}). It was left as it is: run "
                    "this cell again when it can be read."
                ) from error
            is_last = path == paths[-1]
            remedy = "Training starts from scratch." if is_last else "The one before it is used."
            set_aside(path, f"{type(error).__name__}: {error}", remedy)
            continue
        keys = {**progress.settings, **settings}
        if changed := [key for key in keys if progress.settings.get(key) != settings.get(key)]:
            raise UserError(
                f"{folder} holds a training with other settings ({', '.join(changed)}). Choose "
                "another folder; or set RETRAIN = True to replace it once the new one is finished."
            )
        if not progress.finished:
            for variable, array in zip(variables_of(model), arrays, strict=True):
                variable.assign(array)
        what = "Reused a finished training" if progress.finished else "Resumed the training"
        print(f"{what}: {progress.epoch} epochs done, best validation loss {progress.best:.3f}.")
        return progress
    return Progress(settings)


def _read(
    path: Path, model: keras.Model, settings: dict[str, Any]
) -> tuple[Progress, list[np.ndarray]]:
    """Return a state's progress and its variables' values; zip's CRC-32 guards each."""
    with np.load(path, allow_pickle=False) as file:
        progress = Progress(**json.loads(str(file["progress"])))
        now = [file[name] for name in file.files if name.startswith("now_")]
        progress.weights = [file[name] for name in file.files if name.startswith("best_")]
    if progress.settings == settings:
        if not progress.finished:
            _must_fit(now, variables_of(model))
        if progress.weights or math.isfinite(progress.best):
            _must_fit(progress.weights, model.weights)
    return progress, now


def _must_fit(arrays: list[np.ndarray], variables: list[Any]) -> None:
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise ValueError("it holds values of other variables")
