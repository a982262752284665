"""Image files through the encoder, batch after batch, on every device of this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from roco_caption.encoder_table import ENCODERS
from roco_caption.files import UserError
from roco_caption.images import image_batches


def on_each_device(build: Callable[[], Any]) -> list[Any]:
    """Build an encoder for each accelerator, such as Kaggle's two T4s; one where there is none.

    Args:
        build: returns the encoder.
    """
    names = device_names()
    if len(names) == 1:
        return [build()]
    models = []
    for name in names:
        with keras.device(name):
            models.append(build())
    return models


def device_names() -> list[str]:
    """Return the devices that encode, such as `gpu:0` and `gpu:1`, as `keras.device` takes them."""
    if keras.backend.backend() not in ("tensorflow", "jax"):
        return ["cpu:0"]  # Keras knows no others' devices; they choose one by themselves
    return keras.distribution.list_devices()


def encode_files(
    models: Sequence[Any], paths: Sequence[str | os.PathLike], batch_size: int, **reading: Any
) -> Iterator[tuple[np.ndarray, list[np.ndarray], dict[int, str]]]:
    """Encode image files; the devices take turns, batch by batch.

    Which images share a batch depends on their order alone, and every batch has one shape, so a
    batch's features do not depend on how many devices there are.

    Args:
        models: of `on_each_device`.
        paths: image files, in the order wanted.
        batch_size: images encoded at once on a device.
        reading: further options of `image_batches`.

    Yields:
        Positions in `paths`, int64 (n,), in order; each output of the encoder for them, float
        (n, ...); and {position: reason} for those that could not be decoded.

    Raises:
        UserError: the encoder's output for an image is not finite.
    """
    for positions, outputs, skipped in _encoded(models, paths, batch_size, reading):
        for output in outputs:
            finite = np.isfinite(output).reshape(len(output), -1).all(axis=1)
            if not finite.all():
                raise UserError(
                    f"{models[0].name} makes no finite numbers of {paths[positions[~finite][0]]}. "
                    "Set PRECISION to float32; if it stays so, its weights are damaged. What was "
                    "encoded before is kept."
                )
        yield positions, outputs, skipped


def _encoded(
    models: Sequence[Any],
    paths: Sequence[str | os.PathLike],
    batch_size: int,
    reading: dict[str, Any],
) -> Iterator[tuple[np.ndarray, list[np.ndarray], dict[int, str]]]:
    size = ENCODERS[models[0].name].size
    batches = image_batches(paths, size=size, batch_size=batch_size, **reading)
    if len(models) == 1:
        for positions, pixels, skipped in batches:
            yield positions, _predict(models[0], pixels, batch_size), skipped
        return
    names = device_names()
    waiting: deque[tuple[np.ndarray, Any, dict[int, str]]] = deque()
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1, "encode")) for _ in models]
        for i, (positions, pixels, skipped) in enumerate(batches):
            k = i % len(models)
            future = pools[k].submit(_predict_on, names[k], models[k], pixels, batch_size)
            waiting.append((positions, future, skipped))
            if len(waiting) > len(models):  # each device has its next batch ready
                positions, future, skipped = waiting.popleft()
                yield positions, future.result(), skipped
        for positions, future, skipped in waiting:
            yield positions, future.result(), skipped


def _predict_on(device: str, model: Any, pixels: np.ndarray, batch_size: int) -> list[np.ndarray]:
    with keras.device(device):
        return _predict(model, pixels, batch_size)


def _predict(model: Any, pixels: np.ndarray, batch_size: int) -> list[np.ndarray]:
    if not len(pixels):
        return []
    count = len(pixels)
    if count < batch_size:  # one shape: compiled once
        pixels = np.pad(pixels, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)))
    output = model.predict_on_batch(pixels)
    output = output if isinstance(output, list) else [output]
    return [np.asarray(array)[:count] for array in output]
