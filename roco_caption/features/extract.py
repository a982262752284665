"""Image files to features: decodes, encodes on every device, and caches."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
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
    """Return the features of `images`, {id: file}, or more; encode only those not yet in `folder`.

    The cache is one pickle per encoder, such as `vgg16-fc2-imagenet.pkl`; with grids another one,
    and an .npy beside it. Finished parts are saved every few seconds, so a stopped run continues
    where it was. Damaged files are set aside, their images encoded again. A second process waits.

    Args:
        encoder, weights, seed, precision, with_grid: as in `build_encoder`.
        allow_random: whether to continue with random weights if ImageNet's are unavailable.
        batch_size: images per batch and device.

    Raises:
        UserError: the file is not a feature cache, or is another encoder's (it is not changed); or
            ImageNet's weights are unavailable; or disk or memory is full (what is done is kept).
    """
    header = describe(encoder, weights, seed, with_grid=with_grid)
    label = {"imagenet": "imagenet", "random": f"random-{seed}"}.get(weights, Path(weights).stem)
    layers = [header[key] for key in ("layer", "grid") if key in header]
    path = Path(folder) / f"{'-'.join([encoder, *layers, label])}.pkl"

    options: dict[str, Any] = {"seed": seed, "precision": precision, "with_grid": with_grid}

    def build() -> Any:
        return build_encoder(encoder, weights, **options)

    try:
        with lock(path.with_name(f".{path.stem}.lock"), "encoding images"):
            features = _extract(images, FeatureCache(path, header), build, batch_size)
    except WeightsUnavailable as error:
        if not allow_random:
            raise
        print(f"NOTE: {error}\nContinuing with RANDOM weights, which are fine for phantoms only.")
        options |= {"encoder": encoder, "weights": "random", "batch_size": batch_size}
        return extract_features(images, folder, **options)
    # lets a captioner build the same encoder again
    features.encoder = header | {"requested": {"weights": weights, "seed": seed}}
    return features


def _extract(
    images: dict[str, Path], cache: FeatureCache, build: Callable[[], Any], batch_size: int
) -> Features:
    features = cache.load()
    missing = features.untried(images)
    if not missing and not cache.folder.exists():
        print(f"Features of {len(images):,} images reused from {cache.path}")
        return features
    models = on_each_device(build)
    for _ in range(2):  # the second round is for what proves damaged when it is joined
        started = time.perf_counter()
        _encode(models, {name: images[name] for name in missing}, cache, batch_size)
        rate = len(missing) / (time.perf_counter() - started)
        print(f"Features of {len(missing):,} images made ({rate:.1f} images/s): {cache.path}")
        features = cache.join()
        if not (missing := features.untried(images)):
            return features
    raise UserError(
        f"Features of {len(missing)} images, {missing[0]} among them, were damaged twice while "
        f"being written to {cache.path.parent}. Check its disk or choose another folder."
    )


def _encode(
    models: Sequence[Any], images: dict[str, Path], cache: FeatureCache, batch_size: int
) -> None:
    smaller = f"If that is not enough, give extract_features batch_size={max(1, batch_size // 2)}"
    remedy = f"{smaller}; what was encoded before is kept, and used."
    with (
        memory_for(f"encoding {batch_size} images at once", remedy),
        progress_bar(total=len(images), desc="encoding", unit="image", smoothing=0.05) as bar,
    ):
        try:
            for ids, arrays, skipped in encode_files(models, images, batch_size):
                cache.add(ids, *arrays, skipped=skipped)
                bar.update(len(ids) + len(skipped))
        finally:
            cache.flush()  # the stop button loses nothing


def on_each_device(build: Callable[[], Any]) -> list[Any]:
    """Build the encoder on each device."""
    models = []
    for device in _devices():
        with device:
            models.append(build())
    return models


def _devices() -> list[Any]:
    """Return a context per accelerator, such as Kaggle's two T4s; of a single one, Keras' own."""
    if keras.backend.backend() in ("tensorflow", "jax"):
        names = keras.distribution.list_devices()
        if len(names) > 1:
            return [keras.device(name) for name in names]
    return [nullcontext()]


def encode_files(
    models: Sequence[Any], images: Mapping[str, str | os.PathLike], batch_size: int, **reading: Any
) -> Iterator[tuple[list[str], list[np.ndarray], dict[str, str]]]:
    """Encode images, {id: file}, with the models of `on_each_device`, a batch each at a time.

    Yields the ids of n images, in the order of `images` whatever the number of devices; each output
    of the encoder for them, float (n, ...), none if n is 0; and {id: reason} for undecodable files.
    Raises a UserError if an output is NaN or inf. `reading` is as in `image_batches`.
    """
    ids, paths, size = list(images), list(images.values()), ENCODERS[models[0].name].size
    batches = image_batches(paths, size=size, batch_size=batch_size, **reading)

    def predict(model: Any, device: Any, pixels: np.ndarray) -> list[np.ndarray]:
        count = len(pixels)
        if not count:
            return []
        with device:  # padded to one shape, so that the model is compiled once
            padded = np.pad(pixels, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)))
            outputs = model.predict_on_batch(padded)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return [np.asarray(array)[:count] for array in outputs]

    with ThreadPoolExecutor(len(models), "encode") as pool:
        while turn := list(islice(batches, len(models))):
            outputs = pool.map(predict, models, _devices(), [pixels for _, pixels, _ in turn])
            for (positions, _, skipped), arrays in zip(turn, outputs, strict=True):
                for array in arrays:
                    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
                    if not finite.all():
                        raise UserError(
                            f"{models[0].name} produced NaN or inf for "
                            f"{paths[positions[finite.argmin()]]}. Pass precision='float32' to "
                            "prepare_features; if that does not help, its weights are damaged. "
                            "What was encoded before is kept."
                        )
                reasons = {ids[i]: reason for i, reason in skipped.items()}
                yield [ids[i] for i in positions], arrays, reasons
