"""Image files through the encoder, batch after batch, on every device of this machine."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np

from roco_caption.core.errors import UserError, memory_for
from roco_caption.core.files import lock
from roco_caption.core.progress import progress_bar
from roco_caption.data.images import image_batches
from roco_caption.features.cache import FeatureCache
from roco_caption.features.encoder import ENCODERS, WeightsUnavailable, build_encoder, describe
from roco_caption.features.table import Features


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


KEPT = "what was encoded before is kept, and used."


def extract_features(
    images: dict[str, Path],
    folder: str | os.PathLike,
    *,
    encoder: str = "vgg16",
    weights: str = "imagenet",
    seed: int = 0,
    allow_random: bool = False,
    precision: str = "float32",
    batch_size: int = 32,
    with_grid: bool = False,
) -> Features:
    """Return the features of all images, from the cache as far as it has them.

    The cache is one pickle a encoder in `folder`. While images are encoded, finished parts lie
    beside it and are joined at the end: whenever the run stops, the next one goes on from there.
    What is damaged is set aside and made again. A second process waits until the first is done.

    Args:
        images: {id: image file}.
        folder: where the cache is kept.
        encoder: a key of `ENCODERS`.
        weights: as in `build_encoder`.
        seed: of random weights.
        allow_random: go on with random weights, and say so, when ImageNet's can't be had.
        precision: Keras dtype policy of the encoder.
        batch_size: images encoded at once.
        with_grid: whether to keep, of the same pass, the encoder's grid of each image: an .npy
            beside the pickle, which is then another one than without.

    Returns:
        The `Features` of those images that can be decoded, and of any others in the cache.

    Raises:
        WeightsUnavailable: ImageNet weights could not be downloaded, and `allow_random` is off.
        UserError: the cache is none or belongs to another encoder, and is not touched; or the disk
            is full or memory short, and what was encoded is kept.
    """
    header = describe(encoder, weights, seed, with_grid=with_grid)
    label = {"imagenet": "imagenet", "random": f"random-{seed}"}.get(weights, Path(weights).stem)
    layers = "-".join(header[key] for key in ("layer", "grid") if key in header)
    cache = Path(folder) / f"{encoder}-{layers}-{label}.pkl"
    with lock(cache.with_name(f".{cache.stem}.lock"), "encoding images"):
        parts = FeatureCache(cache, header)
        known = parts.load()
        todo = _missing(images, known)
        if not todo and not parts.unjoined:
            print(f"Features of {len(images):,} images reused from {cache}")
            return _signed(known, header, weights, seed)
        try:
            models = on_each_device(
                lambda: build_encoder(
                    encoder, weights, seed=seed, precision=precision, with_grid=with_grid
                )
            )
        except WeightsUnavailable as error:
            if not allow_random:
                raise
            print(
                f"NOTE: {error}\nGoing on with seeded RANDOM weights, which is fine for phantoms "
                "only."
            )
            return extract_features(
                images, folder, encoder=encoder, weights="random", seed=seed, precision=precision,
                batch_size=batch_size, with_grid=with_grid,
            )  # fmt: skip
        while True:  # once more for what turns out damaged when it is joined
            started = time.perf_counter()
            _encode(models, todo, images, parts, batch_size)
            rate = len(todo) / (time.perf_counter() - started)
            print(f"Features of {len(todo):,} images made ({rate:.1f} images/s), kept in {cache}")
            known = parts.join()
            if not (todo := _missing(images, known)):
                return _signed(known, header, weights, seed)


def _missing(images: dict[str, Path], known: Features) -> list[str]:
    return [name for name in images if name not in known and name not in known.skipped]


def _signed(features: Features, header: dict[str, Any], weights: str, seed: int) -> Features:
    """Note what the encoder was asked for, so that a captioner can build it again."""
    features.encoder = header | {"requested": {"weights": weights, "seed": seed}}
    return features


def _encode(
    models: list[Any],
    todo: list[str],
    images: dict[str, Path],
    parts: FeatureCache,
    batch_size: int,
) -> None:
    paths = [images[name] for name in todo]
    fewer = f"If that is not enough, give extract_features batch_size={max(1, batch_size // 2)}"
    with (
        memory_for(f"encoding {batch_size} images at once", f"{fewer}; {KEPT}"),
        progress_bar(total=len(todo), desc="encoding", unit="image", smoothing=0.05) as bar,
    ):
        try:
            for positions, arrays, skipped in encode_files(models, paths, batch_size):
                parts.skip({todo[i]: reason for i, reason in skipped.items()})
                if len(positions):
                    parts.add([todo[i] for i in positions], *arrays)
                bar.update(len(positions) + len(skipped))
        finally:
            parts.flush()  # the stop button loses nothing
