"""Image files to features: decodes, encodes on every device, and caches."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
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
    """Return the features of all images (or more), encoding only those that are not cached.

    The cache is one pickle per encoder; with grids another one, and an .npy beside it. While images
    are encoded, finished parts are saved every few seconds, so a stopped run continues where it
    was. Damaged files are set aside and their images encoded again. A second process waits.

    Args:
        images: {id: image file}.
        folder: of the caches; see `cache_path`.
        encoder, weights, seed, precision, with_grid: as in `build_encoder`.
        allow_random: whether to continue with random weights if ImageNet's are unavailable.
        batch_size: images per batch and device.

    Raises:
        UserError: the file is not a feature cache, or is another encoder's (it is not changed); or
            ImageNet's weights are unavailable; or disk or memory is full (what is done is kept).
    """
    header = describe(encoder, weights, seed, with_grid=with_grid)
    path = cache_path(folder, header, weights, seed)

    def build() -> Any:
        return build_encoder(encoder, weights, seed=seed, precision=precision, with_grid=with_grid)

    try:
        with lock(path.with_name(f".{path.stem}.lock"), "encoding images"):
            features = _extract(images, FeatureCache(path, header), build, batch_size)
    except WeightsUnavailable as error:
        if not allow_random:
            raise
        print(f"NOTE: {error}\nContinuing with RANDOM weights, which are fine for phantoms only.")
        return extract_features(
            images, folder, encoder=encoder, weights="random", seed=seed, precision=precision,
            batch_size=batch_size, with_grid=with_grid,
        )  # fmt: skip
    # lets a captioner build the same encoder again
    features.encoder = header | {"requested": {"weights": weights, "seed": seed}}
    return features


def cache_path(folder: str | os.PathLike, header: dict[str, Any], weights: str, seed: int) -> Path:
    """Return the cache's path: `vgg16-fc2-imagenet.pkl`, `vgg16-fc2-block5_conv3-random-0.pkl`."""
    label = {"imagenet": "imagenet", "random": f"random-{seed}"}.get(weights, Path(weights).stem)
    layers = [header[key] for key in ("layer", "grid") if key in header]
    return Path(folder) / f"{'-'.join([header['name'], *layers, label])}.pkl"


def _extract(
    images: dict[str, Path], cache: FeatureCache, build: Callable[[], Any], batch_size: int
) -> Features:
    features = cache.load()
    missing = _missing(images, features)
    if not missing and not cache.unjoined:
        print(f"Features of {len(images):,} images reused from {cache.path}")
        return features
    models = on_each_device(build)
    for _ in range(2):  # the second round is for what proves damaged when it is joined
        started = time.perf_counter()
        _encode(models, {name: images[name] for name in missing}, cache, batch_size)
        rate = len(missing) / (time.perf_counter() - started)
        print(f"Features of {len(missing):,} images made ({rate:.1f} images/s): {cache.path}")
        features = cache.join()
        missing = _missing(images, features)
        if not missing:
            return features
    raise UserError(
        f"Features of {len(missing)} images, {missing[0]} among them, were damaged twice while "
        f"being written to {cache.path.parent}. Check its disk or choose another folder."
    )


def _missing(images: dict[str, Path], features: Features) -> list[str]:
    return [name for name in images if name not in features and name not in features.skipped]


def _encode(
    models: Sequence[Any], images: dict[str, Path], cache: FeatureCache, batch_size: int
) -> None:
    ids, paths = list(images), list(images.values())
    smaller = f"If that is not enough, give extract_features batch_size={max(1, batch_size // 2)}"
    remedy = f"{smaller}; what was encoded before is kept, and used."
    with (
        memory_for(f"encoding {batch_size} images at once", remedy),
        progress_bar(total=len(ids), desc="encoding", unit="image", smoothing=0.05) as bar,
    ):
        try:
            for positions, arrays, skipped in encode_files(models, paths, batch_size):
                cache.skip({ids[i]: reason for i, reason in skipped.items()})
                if len(positions):
                    cache.add([ids[i] for i in positions], *arrays)
                bar.update(len(positions) + len(skipped))
        finally:
            cache.flush()  # the stop button loses nothing


def on_each_device(build: Callable[[], Any]) -> list[Any]:
    """Build the encoder once per device of `_devices`."""
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
    models: Sequence[Any], paths: Sequence[str | os.PathLike], batch_size: int, **reading: Any
) -> Iterator[tuple[np.ndarray, list[np.ndarray], dict[int, str]]]:
    """Encode image files with the models of `on_each_device`, a batch each at a time.

    Batches follow the order of `paths`, so the features do not depend on the number of devices.
    Further options are those of `image_batches`.

    Yields:
        Positions in `paths`, int64 (n,), ascending; each output of the encoder for them, float
        (n, ...); and {position: reason} for files that could not be decoded.

    Raises:
        UserError: the encoder's output for an image is NaN or inf.
    """
    size = ENCODERS[models[0].name].size
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
                _check_finite(models[0].name, arrays, [paths[i] for i in positions])
                yield positions, arrays, skipped


def _check_finite(encoder: str, arrays: list[np.ndarray], paths: list[Any]) -> None:
    for array in arrays:
        bad = [path for path, row in zip(paths, array, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise UserError(
                f"{encoder} produced NaN or inf for {bad[0]}. Set PRECISION to float32; if that "
                "does not help, its weights are damaged. What was encoded before is kept."
            )
