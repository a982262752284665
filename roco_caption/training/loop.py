"""Trains the decoder, saves its state as it goes, and resumes exactly where it was stopped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from roco_caption.core.errors import Diverged, first_line, memory_for
from roco_caption.core.files import lock, make_folder, remove_leftovers
from roco_caption.core.progress import Row, progress_bar
from roco_caption.decoder.model import Decoder
from roco_caption.decoder.ratings import RATINGS_VERSION
from roco_caption.text.tokenizer import PAD
from roco_caption.training.batches import Replicas, plan
from roco_caption.training.captions import CaptionData, text_passes
from roco_caption.training.checkpoint import (
    STATE,
    WEIGHTS,
    Progress,
    begin_or_resume,
    learnt_variables,
    load_best,
    replace_run,
    save_best,
    save_state,
    write_history,
)
from roco_caption.training.runs import CosineByEpoch, Schedule

SAVE_SECONDS = 20  # a kill loses at most this much; the captioner's file may be as old
FEW_STEPS = 200  # after fewer, captions are words in no order
READ_EVERY = 20  # steps: reading a loss waits for an accelerator


def train(
    decoder: Decoder,
    training: CaptionData,
    validation: CaptionData,
    folder: str | os.PathLike,
    *,
    retrain: bool = False,
    replace: bool = True,
    callbacks: Iterable[Callable[[Row], None]] = (),
    precision: str = "float32",
    strategy: Any = None,
    **schedule: Any,
) -> pd.DataFrame:
    """Train the decoder, keep the weights of the lowest validation loss, and load them.

    Whole captions are trained in one pass, those without images beside the others, with AdamW and a
    cosine decay of the learning rate to zero. Stopped at any moment, the next call continues with
    the same batches, dropout and optimizer state; finished, the next call reuses the result. A
    damaged state is set aside for the one before it. After an interrupt the decoder has the best
    weights so far. A second process on the folder waits until the first is done.

    Args:
        decoder: of `build_decoder`, its scaler fitted.
        training, validation: what to learn from, and to choose the best epoch by.
        folder: for this run's files; with several machines only the first reads and writes it.
        retrain: train from scratch if this training is finished, or the folder holds another; its
            files stay until the new ones are complete, or if not `replace`, until `replace_run`.
        callbacks: each is called with the row of every epoch, those finished earlier first, but
            not if the training is finished; one that fails is not called again.
        precision: of matrix products, see `multiplied_in`; no part of the training's identity.
        strategy: as `Replicas` takes it; None for one device.
        schedule: the fields of `Schedule`, such as `epochs`.

    Returns:
        One row per epoch: `loss` and `val_loss` (nats per word), `learning_rate`.

    Raises:
        UserError: the loss is no longer finite, out of memory, a file cannot be written, or the
            folder holds a training with other settings.
    """
    decoder.weights_file = ""
    settings = identify(decoder, training, validation, **schedule)
    model, steps = decoder.every_word, _steps(training, settings)
    if decoder.untrained is None:
        decoder.untrained = [np.asarray(variable) for variable in learnt_variables(model)]
    for variable, value in zip(learnt_variables(model), decoder.untrained, strict=True):
        variable.assign(value)  # it may have been trained before
    decay = Schedule(**schedule).decay(sum(steps) / len(steps))
    rate = CosineByEpoch(settings["learning_rate"], steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
    replicas = Replicas(decoder, strategy, precision)
    run = partial(_Run, model, training, validation, replicas, list(callbacks))
    if not replicas.chief:
        progress = replicas.follow(Progress(settings))
        if not progress.finished:
            run(Path(folder)).go_on(progress)
        replicas.follow_weights(model.weights)
        return _table(progress)
    if sum(steps) < FEW_STEPS:
        print(f"WARNING: this training has only {sum(steps)} steps. For captions that make sense, "
              "raise EPOCHS or lower BATCH_SIZE.")  # fmt: skip
    folder = make_folder(folder)
    with lock(folder / ".lock", "training"):
        for name in (STATE, WEIGHTS):
            remove_leftovers(folder / name)
        place, progress = begin_or_resume(model, folder, settings, retrain)
        progress = replicas.follow(progress)
        if not progress.finished:
            run(place).go_on(progress)
        load_best(model, place, progress)
        decoder.weights_file = progress.weights_file
        if replace and place != folder:
            replace_run(folder)
        replicas.follow_weights(model.weights)
    return _table(progress)


def identify(
    decoder: Decoder, training: CaptionData, validation: CaptionData, **schedule: Any
) -> dict[str, Any]:
    """Return what identifies a training: its `schedule`, the model and the data, fit for JSON."""
    settings = asdict(Schedule(**schedule).for_captions(len(training.tokens)))
    if decoder.seed not in (None, settings["seed"]):  # SEED was changed after the decoder was made
        settings["decoder seed"] = decoder.seed
    if training.texts is not None:
        settings["text passes"] = text_passes(settings["epochs"])
    return settings | {
        "model": _signature(decoder.every_word), "ratings": RATINGS_VERSION,
        "training data": training.digest(), "validation data": validation.digest(),
    }  # fmt: skip


def _steps(data: CaptionData, settings: dict[str, Any]) -> list[int]:
    """Return the number of steps of each epoch."""
    n, epochs = len(data.tokens), settings["epochs"]
    counts = (n + data.text_count(epoch, epochs) for epoch in range(epochs))
    return [math.ceil(count / settings["batch_size"]) for count in counts]


def _table(progress: Progress) -> pd.DataFrame:
    return pd.DataFrame(progress.history).set_index("epoch")


def _signature(model: keras.Model) -> list[Any]:
    """What distinguishes a decoder from others: its layers, their dropout rates and shapes."""
    return [
        [layer.name, getattr(layer, "rate", None), [list(w.shape) for w in layer.weights]]
        for layer in model.layers
    ]


@dataclass
class _Run:
    """One call's training of a compiled model, see `train`."""

    model: keras.Model
    training: CaptionData
    validation: CaptionData
    replicas: Replicas
    callbacks: list[Callable[[Row], None]]
    folder: Path
    written: float = field(default_factory=time.monotonic)  # when the captioner's file was

    def go_on(self, progress: Progress) -> None:
        """Train from where `progress` is to the end."""
        decoder = self.replicas.decoder
        self.training = self.training.rated(decoder)
        self.validation = self.validation.rated(decoder)
        try:
            self._go_on(progress)
        except (KeyboardInterrupt, Diverged) as stopped:
            if self.replicas.chief and progress.weights:
                load_best(self.model, self.folder, progress)
                decoder.weights_file = progress.weights_file
                if isinstance(stopped, KeyboardInterrupt):
                    print(f"Stopped in epoch {progress.epoch + 1}. The decoder has its best "
                          "weights so far. Run this cell again to go on.")  # fmt: skip
            raise

    def _go_on(self, progress: Progress) -> None:
        epochs, batch_size = progress.settings["epochs"], progress.settings["batch_size"]
        steps = _steps(self.training, progress.settings)
        done = sum(steps[: progress.epoch]) + progress.step
        remedy = (
            "Training continues from the last saved state. If that is not enough, lower BATCH_SIZE "
            "or MAX_WORDS; that trains from scratch."
        )
        with (
            memory_for(f"training (batch size {batch_size})", remedy),
            progress_bar(total=sum(steps), initial=done, unit="step") as bar,
        ):
            if self.replicas.chief:
                for row in progress.history:
                    self._notify(row)
            while not progress.finished:
                bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")
                self._run_epoch(progress, bar)
                row = self._end_epoch(progress)
                losses = {name: f"{row[name]:.3f}" for name in ("loss", "val_loss")}
                bar.set_postfix(**losses, refresh=False)

    def _run_epoch(self, progress: Progress, bar: Any) -> None:
        settings = progress.settings
        data = self.training.of_epoch(progress.epoch, settings["epochs"], settings["seed"])
        lengths = (data.tokens != PAD).sum(axis=1)
        batches = plan(
            lengths, batch_size=settings["batch_size"], seed=settings["seed"], epoch=progress.epoch
        )
        begun = progress.epoch or progress.step  # else a state comes after the first step
        saved, waiting = time.monotonic() if begun else -math.inf, []
        for rows in batches[progress.step :]:
            batch, words = self.replicas.batch(data.features, data.tokens, rows)
            waiting.append((self.replicas.train_on_batch(*batch), words))
            progress.step += 1
            due = self.replicas.chief and time.monotonic() - saved > SAVE_SECONDS
            if due or len(waiting) == READ_EVERY or progress.step == len(batches):
                self._add_losses(progress, waiting)
            if due:
                save_state(self.model, self.folder, progress)
                saved = time.monotonic()
            bar.update()

    def _add_losses(self, progress: Progress, waiting: list[tuple[Any, int]]) -> None:
        """Read losses, which waits for their steps, and add them to the epoch's."""
        for loss, words in waiting:
            if not math.isfinite(float(loss)):
                raise Diverged(
                    f"The loss is {loss} in epoch {progress.epoch + 1}. The best weights so far "
                    f"are kept in {self.folder}. Lower LEARNING_RATE, and check the features for "
                    "outliers."
                )
            progress.loss += float(loss) * words
            progress.words += words
        waiting.clear()

    def _end_epoch(self, progress: Progress) -> Row:
        """Validate, save, and return the epoch's row."""
        model, settings = self.model, progress.settings
        val_loss = _mean_loss(self.replicas, self.validation)
        row = {"epoch": progress.epoch + 1, "loss": progress.loss / progress.words}
        row |= {"val_loss": val_loss, "learning_rate": float(model.optimizer.learning_rate)}
        progress.history.append(row)
        improved = val_loss < progress.best
        if improved:
            progress.best, progress.waited = val_loss, 0
        elif not self.training.text_count(progress.epoch, settings["epochs"]):
            progress.waited += 1
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.loss, progress.words = 0.0, 0
        progress.finished = (
            progress.epoch == settings["epochs"] or progress.waited >= settings["patience"]
        )
        if self.replicas.chief:
            if improved:
                self._keep_best(progress)
            write_history(self.folder, progress)
            # last, so that after a kill no file is older than the state says
            save_state(model, self.folder, progress)
            self._notify(row)
        return row

    def _keep_best(self, progress: Progress) -> None:
        """Keep the model's weights for the next state, and now and then in the captioner's file."""
        if progress.finished or time.monotonic() - self.written > SAVE_SECONDS:
            save_best(self.model, self.folder, progress)
            self.written = time.monotonic()
        else:
            progress.weights, progress.weights_file = self.model.get_weights(), ""

    def _notify(self, row: Row) -> None:
        for callback in list(self.callbacks):
            try:
                callback(row)
            except Exception as error:  # never worth a training
                self.callbacks.remove(callback)
                name = getattr(callback, "__qualname__", type(callback).__name__).split(".")[0]
                print(f"NOTE: the callback {name} failed ({first_line(error)}) and is not called "
                      "again; the training goes on.")  # fmt: skip


def evaluate_loss(decoder: Decoder, data: CaptionData, batch_size: int = 256) -> float:
    """Return the mean loss in nats per word, without dropout; the training view is compiled."""
    return _mean_loss(Replicas(decoder), data.rated(decoder), batch_size)


def _mean_loss(replicas: Replicas, data: CaptionData, batch_size: int = 256) -> float:
    order = np.argsort((data.tokens != PAD).sum(axis=1), kind="stable")
    total, count = 0.0, 0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch, words = replicas.batch(data.features, data.tokens, rows)
        total, count = total + float(replicas.test_on_batch(*batch)) * words, count + words
    return total / count
