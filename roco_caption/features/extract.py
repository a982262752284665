"""Image files to features: decodes, encodes on every device, and caches."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import keras
import numpy as np

from roco_caption.core.errors import UserError, first_line, memory_for
from roco_caption.core.files import lock
from roco_caption.core.progress import progress_bar
from roco_caption.data.images import ImageError, image_batches, read_image
from roco_caption.features.cache import FeatureCache
from roco_caption.features.encoder import WeightsUnavailable, build_encoder, describe, weights_path
from roco_caption.features.files import FileMark, file_mark, present_marks
from roco_caption.features.table import Features

LOST = (  # errors of a disk or network, not of a file
    errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV,
    errno.EHOSTDOWN,
)  # fmt: skip

PRECISIONS = "float32", "mixed_float16", "mixed_bfloat16"  # that `detect` chooses from


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

    The cache is one pickle per encoder and precision, such as `vgg16-fc2-imagenet.pkl`; with grids
    another one, and an .npy beside it. One that has all images is used in any precision. A stopped
    run continues where it was; a second process waits. Images whose files or features changed are
    encoded again; undecodable ones are tried again in each run.

    Args:
        encoder, weights, seed, precision, with_grid: as in `build_encoder`.
        allow_random: whether to continue with random weights if ImageNet's are unavailable.
        batch_size: images per batch and device.

    Raises a UserError if a cache is another encoder's (it is not changed), if ImageNet's weights
    are unavailable, or if disk or memory is full (what is done is kept).
    """
    weights, folder = weights_path(weights), Path(folder).expanduser()
    header = describe(encoder, weights, seed, with_grid=with_grid)
    of_file = f"{Path(weights).stem}-{header['weights'].split()[-1][:8]}"  # of its SHA-256
    label = {"imagenet": "imagenet", "random": f"random-{seed}"}.get(weights, of_file)
    layers = [header[key] for key in ("layer", "grid") if key in header]
    stem = "-".join([encoder, *layers, label])
    caches = [
        FeatureCache(folder / f"{stem}{'' if p == 'float32' else f'-{p}'}.pkl", header, p)
        for p in dict.fromkeys([precision, *PRECISIONS])
    ]
    options: dict[str, Any] = {"seed": seed, "with_grid": with_grid}

    def build(precision: str) -> Any:
        return build_encoder(encoder, weights, precision=precision, **options)

    try:
        with lock(folder / f".{stem}.lock", "encoding images"):
            features = _extract(images, caches, build, batch_size)
    except WeightsUnavailable as error:
        if not allow_random:
            raise
        print(f"NOTE: {error}\nContinuing with RANDOM weights, which are fine for phantoms only.")
        options |= {"encoder": encoder, "weights": "random", "batch_size": batch_size}
        return extract_features(images, folder, precision=precision, **options)
    features.encoder = header | {
        "precision": features.encoder["precision"],
        "requested": {"weights": weights, "seed": seed},  # a captioner builds it again with these
    }
    return features


def _extract(
    images: dict[str, Path], caches: list[FeatureCache], build: Callable, batch_size: int
) -> Features:
    cache, features = _most_complete(caches, images)
    missing = _to_encode(images, cache, features)
    if not missing:
        made = sum(name in features for name in images)
        print(f"Features of {made:,} images reused from {cache.path}{_left_out(images, made)}")
        if not cache.folder.exists():
            cache.remember(features)
            return features
    for _ in range(2):  # the second round is for what proves damaged when it is joined
        del features  # `join` reads them again
        if missing:
            _encode({name: images[name] for name in missing}, cache, build, batch_size)
        new = {name: cache.files.pop(name) for name in missing if name in cache.files}
        features = cache.join()  # parts have the marks of their own images
        missing = [*features.untried(images), *_of_other_files(features, new)]
        if not missing:
            return features
    raise UserError(
        f"Features of {len(missing)} images, {missing[0]} among them, were damaged twice while "
        f"being written to {cache.path.parent}. Check its disk or choose another folder."
    )


def _of_other_files(features: Features, marks: Mapping[str, FileMark]) -> list[str]:
    """Return the ids of images whose features were made from another version of their file."""
    known = [name for name in marks if name in features]
    made = features.files[features.places(known)].tolist()
    return [name for name, mark in zip(known, made, strict=True) if mark != [*marks[name]]]


def _most_complete(
    caches: list[FeatureCache], images: dict[str, Path]
) -> tuple[FeatureCache, Features]:
    """Return the first cache in which all images were tried, else the first; print which."""
    first = caches[0]
    features = first.load()
    if not features.untried(images):
        return first, features
    for cache in caches[1:]:
        made = cache.load()
        if not made.untried(images):
            own, other = first.header["precision"], cache.header["precision"]
            print(f"NOTE: All features were made in {other}: they are used, not made in {own}.")
            return cache, made
    return first, features


def _to_encode(images: dict[str, Path], cache: FeatureCache, features: Features) -> list[str]:
    """Return the ids of images that are new, changed, or decoded for the first time."""
    known = [name for name in images if name in features]
    marks = features.files[features.places(known)].tolist()
    present = present_marks(marks, [images[name] for name in known])
    cache.files = {name: mark for name, mark in zip(known, present, strict=True) if mark}
    changed = set(known) - set(cache.files)
    if changed:
        print(f"{len(changed):,} images changed and are encoded again.")
    skipped = {name: path for name, path in images.items() if name in features.skipped}
    reasons = undecodable(skipped, cache.header["image_size"])
    features.skipped |= reasons
    missing = changed.union(set(skipped).difference(reasons), features.untried(images))
    return [name for name in images if name in missing]


def undecodable(images: Mapping[str, Any], size: int, **reading: Any) -> dict[str, str]:
    """Return {id: reason} for those of `images` that cannot be decoded; as for `encode_files`."""
    ids, batches = list(images), image_batches(list(images.values()), size=size, **reading)
    return {ids[i]: reason for _, _, skipped in batches for i, reason in skipped.items()}


def _left_out(images: Mapping[str, Any], made: int) -> str:
    return f"; {len(images) - made:,} could not be decoded" if len(images) > made else ""


def _encode(images: dict[str, Path], cache: FeatureCache, build: Callable, batch_size: int) -> None:
    models = on_each_device(lambda: build(cache.header["precision"]))
    smaller = f"If that is not enough, give extract_features batch_size={max(1, batch_size // 2)}"
    remedy = f"{smaller}; what was encoded before is kept, and used."
    marks: dict[Any, FileMark] = {}
    made, started = 0, time.perf_counter()

    def read(path: Path, size: int) -> np.ndarray:
        marks[path] = file_mark(path)
        return read_or_stop(path, size)

    reading: dict[str, Any] = {"rescue": lambda: build("float32"), "read": read}
    with (
        memory_for(f"encoding {batch_size} images at once", remedy),
        progress_bar(total=len(images), desc="encoding", unit="image", smoothing=0.05) as bar,
    ):
        try:
            for ids, arrays, skipped in encode_files(models, images, batch_size, **reading):
                cache.files |= {name: marks[images[name]] for name in ids}
                cache.add(ids, *arrays, skipped=skipped)
                bar.update(len(ids) + len(skipped))
                made += len(ids)
        finally:
            cache.flush()  # the stop button loses nothing
    rate = len(images) / (time.perf_counter() - started)
    left_out = _left_out(images, made)
    print(f"Features of {made:,} images made ({rate:.1f} images/s): {cache.path}{left_out}")


def read_or_stop(path: str | os.PathLike, size: int) -> np.ndarray:
    """`read_image`, with a UserError where a disk or share is lost, which leaves out no image."""
    try:
        return read_image(path, size)
    except ImageError as error:
        cause = error.__cause__
        gone = isinstance(cause, FileNotFoundError) and not Path(path).parent.is_dir()
        if not isinstance(cause, OSError) or not (gone or cause.errno in LOST):
            raise
        raise UserError(
            f"{path} could not be read ({first_line(cause)}). Check that its disk or Drive is "
            "there, then run this again: what was encoded before is kept. If only this file "
            "fails, remove it."
        ) from error


def on_each_device(build: Callable[[], Any]) -> list[Any]:
    """Build the encoder on each device."""
    models = []
    for device in _devices():
        with device:
            models.append(build())
    return models


def _devices() -> list[Any]:
    """Return a context per accelerator, such as Kaggle's two T4s; of a single one, Keras' own."""
    known = keras.backend.backend() in ("tensorflow", "jax")
    names = keras.distribution.list_devices() if known else []
    return [keras.device(name) for name in names] if len(names) > 1 else [nullcontext()]


def encode_files(
    models: Sequence[Any],
    images: Mapping[str, str | os.PathLike],
    batch_size: int,
    *,
    rescue: Callable[[], Any] | None = None,
    **reading: Any,
) -> Iterator[tuple[list[str], list[np.ndarray], dict[str, str]]]:
    """Encode images, {id: file}, with the models of `on_each_device`, a batch each at a time.

    Yields the ids of n images, in the order of `images` whatever the number of devices; each output
    of the encoder for them, float (n, ...), none if n is 0; and {id: reason} for undecodable files.
    A batch with NaN or inf is encoded again by the float32 model that `rescue` builds; raises a
    UserError if there is still one. `reading` is as in `image_batches`.
    """
    ids, paths, size = list(images), list(images.values()), models[0].input_shape[1]
    batches = image_batches(paths, size=size, batch_size=batch_size, **reading)
    spare, rescued = None, 0
    with ThreadPoolExecutor(len(models), "encode") as pool:
        for _ in range(0, len(ids), batch_size * len(models)):
            turn = list(islice(batches, len(models)))
            inputs = [pixels for _, pixels, _ in turn]
            outputs = pool.map(_predict, models, _devices(), inputs, repeat(batch_size))
            for (positions, pixels, skipped), arrays in zip(turn, outputs, strict=True):
                if rescue and not _finite(arrays).all():
                    spare, rescued = spare or rescue(), rescued + 1
                    arrays = _predict(spare, nullcontext(), pixels, batch_size)
                if not (finite := _finite(arrays)).all():
                    raise UserError(
                        f"{models[0].name} produced NaN or inf for "
                        f"{paths[positions[finite.argmin()]]}, even in float32. Its weights may be "
                        "damaged, or the image: remove it. What was encoded before is kept."
                    )
                reasons = {ids[i]: reason for i, reason in skipped.items()}
                yield [ids[i] for i in positions], arrays, reasons
    if rescued:
        print(f"{rescued:,} batches contained NaN or inf and were encoded again in float32.")


def _predict(model: Any, device: Any, pixels: np.ndarray, batch_size: int) -> list[np.ndarray]:
    count = len(pixels)
    if not count:
        return []
    with device:  # padded to one shape, so that the model is compiled once
        padded = np.pad(pixels, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)))
        outputs = model.predict_on_batch(padded)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return [np.asarray(array)[:count] for array in outputs]


def _finite(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return for each image whether all its numbers are finite, bool (n,)."""
    finite = [np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in arrays]
    return np.all(finite, axis=0)
