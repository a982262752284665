"""Trains the decoder: checkpoints as it goes, continues exactly where it was stopped."""

from __future__ import annotations

import hashlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from roco_caption.batches import Batch, arrays_of, plan
from roco_caption.files import UserError, make_folder, remove_leftovers, write_text
from roco_caption.grids import Grid
from roco_caption.locks import lock
from roco_caption.memory import memory_for
from roco_caption.model import Captioning
from roco_caption.progress import progress_bar
from roco_caption.replicas import Replicas
from roco_caption.text import PAD
from roco_caption.tracking import Log, tracked
from roco_caption.training_state import (
    STATE,
    WEIGHTS,
    Progress,
    load_best,
    resume,
    save_best,
    save_state,
)

SAVE_SECONDS = 20  # what a kill can cost
HISTORY = "history.csv"


@dataclass(frozen=True)
class Captions:
    """Images and their captions as the decoder takes them.

    Attributes:
        features: float (n, d), one row a caption, in memory or a `Grid` that reads them from a
            disk; with attention a pair of them and a `Grid`.
        tokens: int32 (n, length), of `CaptionTokenizer.encode`.
    """

    features: Any
    tokens: np.ndarray

    def digest(self) -> str:
        """Return a SHA-256 of features and tokens, in hexadecimal."""
        digest = hashlib.sha256()
        for array in arrays_of(self.features):
            lazy = isinstance(array, Grid)
            digest.update(array.digest() if lazy else np.ascontiguousarray(array))
        digest.update(np.ascontiguousarray(self.tokens))
        return digest.hexdigest()


def train(
    captioning: Captioning,
    training: Captions,
    validation: Captions,
    folder: str | os.PathLike,
    *,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.5,
    patience: int = 6,
    seed: int = 0,
    retrain: bool = False,
    tracking: str = "",
    precision: str = "float32",
    strategy: Any = None,
) -> pd.DataFrame:
    """Train the decoder, keep the weights with the least validation loss, and load them.

    Whole captions are trained in one pass with AdamW and a learning rate that falls along a
    cosine to zero. Stopped at any moment, the next call continues with the very batches, dropout
    and optimizer state that it would have had; finished, the next call reuses the result. A
    damaged state is set aside for the one before it, damaged weights are written again. A second
    process on the folder waits until the first is done.

    With a strategy a batch is divided over several devices or machines, and losses are those of one
    device but for rounding (and for what dropout happens to drop). The first machine alone reads
    and writes the folder.

    Args:
        captioning: of `build_captioning`, its scaler fitted.
        training: images and captions to learn from.
        validation: images and captions to choose the best epoch by.
        folder: where this run's files lie.
        epochs: passes over the training captions.
        batch_size: captions a step.
        learning_rate: at its highest.
        weight_decay: of AdamW.
        patience: epochs without a new best after which training stops.
        seed: of the batches' order.
        retrain: begin anew even if this training was finished or begun before.
        tracking: "mlflow" or "wandb" also get each epoch's losses; see `tracking.tracked`.
        precision: that matrices are multiplied in, see `multiplied_in`; another one alone does
            not begin a training anew.
        strategy: as `Replicas` takes it; None for one device.

    Returns:
        One row an epoch: `loss` and `val_loss` (nats a word), `learning_rate`.

    Raises:
        UserError: the loss is no longer a finite number, memory ran short, a file cannot be
            written, or the service of `tracking` is unknown or not installed.
    """
    model = captioning.every_word
    steps = math.ceil(len(training.tokens) / batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
    replicas = Replicas(model, strategy, precision)
    settings = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "weight_decay": weight_decay, "patience": patience, "seed": seed,
        "model": _signature(model), "training data": training.digest(),
        "validation data": validation.digest(),
    }  # fmt: skip
    if not replicas.chief:
        progress = replicas.follow(Progress(settings))
        if not progress.finished:
            _run(model, training, validation, Path(folder), progress, replicas, lambda row: None)
        replicas.follow_weights(model.weights)
        return _table(progress)
    folder = make_folder(folder)
    with lock(folder / ".lock", "training"):
        for name in (STATE, WEIGHTS):
            remove_leftovers(folder / name)
        progress = replicas.follow(resume(model, folder, settings, retrain))
        remedy = (
            "Training goes on from what was saved last. If that is not enough, lower BATCH_SIZE or "
            "MAX_WORDS, with which it begins anew."
        )
        if not progress.finished:
            with (
                memory_for(f"training with {batch_size} captions a step", remedy),
                tracked(folder, settings, progress.history, tracking) as log,
            ):
                _run(model, training, validation, folder, progress, replicas, log)
        load_best(model, folder, progress)
        replicas.follow_weights(model.weights)
    return _table(progress)


def _table(progress: Progress) -> pd.DataFrame:
    return pd.DataFrame(progress.history).set_index("epoch")


def _signature(model: keras.Model) -> list[Any]:
    """What makes a decoder another one: layers, rates of dropout, losses' weight, and shapes."""
    return [
        [
            layer.name,
            getattr(layer, "rate", getattr(layer, "weight", None)),
            [list(w.shape) for w in layer.weights],
        ]
        for layer in model.layers
    ]


def _run(
    model: keras.Model,
    training: Captions,
    validation: Captions,
    folder: Path,
    progress: Progress,
    replicas: Replicas,
    log: Log,
) -> None:
    epochs, patience = progress.settings["epochs"], progress.settings["patience"]
    steps = math.ceil(len(training.tokens) / progress.settings["batch_size"])
    done = progress.epoch * steps + progress.step
    with progress_bar(total=epochs * steps, initial=done, unit="step") as bar:
        while not progress.finished:
            bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")
            _run_epoch(model, training, folder, progress, bar, replicas)
            val_loss = evaluate_loss(model, validation, replicas=replicas)
            row = {"epoch": progress.epoch + 1, "loss": progress.loss / progress.words}
            row |= {"val_loss": val_loss, "learning_rate": float(model.optimizer.learning_rate)}
            progress.history.append(row)
            if val_loss < progress.best:
                progress.best, progress.waited = val_loss, 0
                if replicas.chief:
                    save_best(model, folder, progress)
            else:
                progress.waited += 1
            progress.epoch, progress.step = progress.epoch + 1, 0
            progress.loss, progress.words = 0.0, 0
            progress.finished = progress.epoch == epochs or progress.waited == patience
            if replicas.chief:
                # last, so that a kill in between leaves nothing older than the state says
                write_text(folder / HISTORY, pd.DataFrame(progress.history).to_csv(index=False))
                save_state(model, folder, progress)
                log(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", val_loss=f"{val_loss:.3f}", refresh=False)


def _run_epoch(
    model: keras.Model,
    training: Captions,
    folder: Path,
    progress: Progress,
    bar: Any,
    replicas: Replicas,
) -> None:
    settings = progress.settings
    lengths = (training.tokens != PAD).sum(axis=1)
    batches = plan(
        lengths, batch_size=settings["batch_size"], seed=settings["seed"], epoch=progress.epoch
    )
    saved = time.monotonic()
    for rows in batches[progress.step :]:
        batch = replicas.batch(training.features, training.tokens, rows)
        loss, words = _step(replicas.train_on_batch, model, *batch)
        if not math.isfinite(loss):
            raise UserError(
                f"The loss is {loss} in epoch {progress.epoch + 1}. The best weights so far "
                f"are kept in {folder}. Lower LEARNING_RATE, and look for odd features."
            )
        progress.loss += loss * words
        progress.words += words
        progress.step += 1
        if replicas.chief and time.monotonic() - saved > SAVE_SECONDS:
            save_state(model, folder, progress)
            saved = time.monotonic()
        bar.update()


def _step(on_batch: Any, model: keras.Model, batch: Batch, words: int) -> tuple[float, int]:
    """Return a batch's mean loss a word, and its words; padding counts for nothing."""
    inputs, targets = batch
    model.reset_metrics()
    return float(on_batch(list(inputs), targets, (targets != PAD) / np.float32(words))), words


def evaluate_loss(
    model: keras.Model, captions: Captions, batch_size: int = 256, replicas: Replicas | None = None
) -> float:
    """Return the mean loss in nats a word, dropout off.

    Args:
        model: the compiled training view.
        captions: to measure on.
        batch_size: captions at once.
        replicas: the devices that share the work; one alone when None.
    """
    replicas = replicas or Replicas(model)
    order = np.argsort((captions.tokens != PAD).sum(axis=1), kind="stable")
    total, count = 0.0, 0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = replicas.batch(captions.features, captions.tokens, rows)
        loss, words = _step(replicas.test_on_batch, model, *batch)
        total, count = total + loss * words, count + words
    return total / count
