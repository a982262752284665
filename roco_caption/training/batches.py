"""Batches, a pure function of seed, epoch and step; and the devices that share them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from roco_caption.core.backend import multiplied_in
from roco_caption.core.errors import UserError
from roco_caption.decoder.model import Decoder
from roco_caption.features.table import arrays_of
from roco_caption.text.tokenizer import PAD
from roco_caption.training.checkpoint import Progress, variables_of
from roco_caption.training.loss import weighted_loss

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def plan(lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Divide the captions into batches of nearly equal length, differently in every epoch.

    Captions are shuffled, sorted by length within stretches of 32 batches, cut into batches, and
    the batches shuffled: little padding, and the same batch hardly ever comes twice.

    Args:
        lengths: tokens of each caption, int (n,).
        batch_size: captions per batch; some may be smaller.
        seed, epoch: what the batches depend on.

    Returns:
        An int64 array of positions per batch; together they hold each position once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    stretch = 32 * batch_size
    batches = []
    for start in range(0, len(order), stretch):
        part = order[start : start + stretch]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def cut(tokens: np.ndarray, multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return captions cut to the longest, as int32 (b, t) to read and (b, t) to predict.

    `predict[:, i]` is the word that follows `read[:, : i + 1]`. The number of columns is rounded up
    to a `multiple`, for fewer different shapes.
    """
    longest = int((tokens != PAD).sum(axis=1).max()) - 1
    columns = min(-(-longest // multiple) * multiple, tokens.shape[1] - 1)
    return tokens[:, :columns], tokens[:, 1 : columns + 1]


class Replicas:
    """The devices that share a training: one, all of this machine, or those of several machines.

    Each has the same weights, computes loss and gradients of its part of a batch, and sums them
    with the others'; then the optimizer runs as on one device. So clipping and AdamW see the whole
    batch's gradients, which Keras' own `fit` under a strategy clips part by part. No variable is
    created under the strategy: they are saved and restored as on one device.

    Args:
        decoder: its training view compiled, the optimizer built.
        strategy: of `find_strategy`; with several machines each runs the same program.
        precision: of matrix products, see `multiplied_in`.
    """

    def __init__(self, decoder: Decoder, strategy: Any = None, precision: str = "float32") -> None:
        model = decoder.every_word
        self.decoder, self.strategy, self.precision = decoder, strategy, precision
        self.multiple = 4 if model.jit_compile else 1  # XLA compiles again for every length
        self.rank, self.local, self.count = rank_of(strategy), 1, 1
        self.step, self.test_on_batch = model.train_on_batch, model.test_on_batch
        if keras.backend.backend() == "tensorflow":
            self.step, self.test_on_batch = self._training_step(), self._evaluation_step()
        if strategy is not None:
            cluster = strategy.cluster_resolver and strategy.cluster_resolver.cluster_spec()
            machines = cluster.num_tasks("worker") if cluster else 1
            self.count = strategy.num_replicas_in_sync
            self.local = self.count // machines
        self.chief = self.rank == 0  # the only one that reads and writes the run's folder

    def batch(self, features: Any, tokens: np.ndarray, rows: np.ndarray) -> tuple[Any, int]:
        """Return this machine's part of a batch, and the words of the whole batch.

        Returns:
            Images, float32 (b, ...), and inputs; targets, see `cut`; and each target's weight,
            float32, 0 for padding. They have equally many rows for each device, padded with
            captions without words. And the number of words that count.
        """
        # equally long on every machine, so that all compile at the same step
        inputs, targets = cut(tokens[rows], self.multiple)
        each = -(-len(rows) // self.count) * self.local
        places = np.arange(self.rank * each, (self.rank + 1) * each)
        part = places % len(rows)
        targets_here = np.where(places[:, None] < len(rows), targets[part], PAD)
        images = (array[rows[part]].astype(np.float32, copy=False) for array in arrays_of(features))
        words = int((targets != PAD).sum())
        weights = (targets_here != PAD) / np.float32(words)
        return ([*images, inputs[part]], targets_here, weights), words

    def train_on_batch(self, *batch: Any) -> Any:
        """Update the weights; return the batch's loss, as `keras.Model.train_on_batch` does."""
        with multiplied_in(self.precision):
            return self.step(*batch)

    def _loss(self, trained: bool, inputs: Any, targets: Any, counts: Any) -> Any:
        hidden = self.decoder.every_hidden(inputs, training=trained)
        return weighted_loss(hidden, self.decoder.parts["dense"], targets, counts, trained)

    def _training_step(self) -> Callable:
        model = self.decoder.every_word
        weights = model.trainable_variables

        def gradients(*arrays: Any) -> list[Any]:
            with tf.GradientTape() as tape:
                loss = self._loss(True, *arrays)
            return self._sum([loss, *tape.gradient(loss, [weight.value for weight in weights])])

        def step(*arrays: Any) -> Any:
            loss, *summed = self._on_each(gradients, arrays)
            model.optimizer.apply(summed, weights)
            return loss

        return tf.function(step, autograph=False, reduce_retracing=True)

    def _evaluation_step(self) -> Callable:
        def step(*arrays: Any) -> Any:
            return self._on_each(lambda *part: self._sum([self._loss(False, *part)]), arrays)[0]

        return tf.function(step, autograph=False, reduce_retracing=True)

    def follow(self, progress: Progress) -> Progress:
        """Give every machine the state of the first, the only one that has read it.

        Returns:
            The first machine's progress; the others lack its best weights.

        Raises:
            UserError: this machine was started with other settings or data than the first.
        """
        if self.count == self.local:
            return progress
        notes = {name: value for name, value in vars(progress).items() if name != "weights"}
        text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        size = int(self._from_first(np.array([len(text)]))[0])
        text = self._from_first(text if self.chief else np.zeros(size))
        self.follow_weights(variables_of(self.decoder.every_word))
        if self.chief:
            return progress
        first = Progress(**json.loads(text.astype(np.uint8).tobytes()))
        mine = progress.settings
        if other := [name for name in mine if first.settings.get(name) != mine[name]]:
            raise UserError(
                f"Machine {self.rank} has different {', '.join(other)} than machine 0. Start all "
                "with the same command, code and data."
            )
        model = self.decoder.every_word
        weights = {id(variable) for variable in model.weights}
        for variable in model.variables:  # so that dropout differs between the parts of a batch
            if id(variable) not in weights:
                state = np.asarray(variable)
                variable.assign(state + np.array([self.rank, 0], state.dtype))
        return first

    def follow_weights(self, variables: list[Any]) -> None:
        """Give every machine the first one's values of these variables."""
        if self.count == self.local:
            return
        mine = [np.asarray(variable) for variable in variables]
        whole = self._from_first(np.concatenate([array.ravel() for array in mine], dtype=float))
        ends = np.cumsum([array.size for array in mine])[:-1]
        for variable, old, new in zip(variables, mine, np.split(whole, ends), strict=True):
            variable.assign(new.reshape(old.shape).astype(old.dtype))

    def _from_first(self, array: np.ndarray) -> np.ndarray:
        """Return the first machine's array as float64, which holds everything sent exactly."""
        value = np.asarray(array, float) if self.chief else np.zeros(len(array))
        value = np.concatenate([value, np.zeros(len(value) * (self.local - 1))])
        share = tf.function(lambda a: self._on_each(lambda part: self._sum([part]), [a])[0])
        return np.asarray(share(tf.constant(value)))

    def _on_each(self, function: Callable, arrays: Any) -> list[Any]:
        """Call a function on each device with its part of this machine's rows; return the sums."""
        if self.strategy is None:
            return function(*arrays)

        def part() -> list[Any]:
            context = tf.distribute.get_replica_context()
            place = context.replica_id_in_sync_group - self.rank * self.local
            return function(*tf.nest.map_structure(lambda a: _part(a, place), arrays))

        def _part(array: Any, place: int) -> Any:
            rows = tf.shape(array)[0] // self.local
            return array[place * rows : (place + 1) * rows]

        sums = self.strategy.run(part)  # equal on every device
        return [self.strategy.experimental_local_results(one)[0] for one in sums]

    def _sum(self, tensors: list[Any]) -> list[Any]:
        if self.strategy is None:
            return tensors
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def rank_of(strategy: Any) -> int:
    """Return this machine's number in a strategy, counted from 0."""
    cluster = strategy and strategy.cluster_resolver
    return cluster.task_id if cluster and cluster.cluster_spec() else 0


def find_strategy() -> Any:
    """Return a strategy for several machines (`TF_CONFIG`) or GPUs, None for one device.

    With the environment variable `TF_CONFIG`, call it before anything else of TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else None
