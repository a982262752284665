"""The encoder's features of every image, in a cached pickle that is filled as it goes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.encoder_weights import WeightsUnavailable
from roco_caption.encoders import build_encoder, describe
from roco_caption.encoding import encode_files, on_each_device
from roco_caption.feature_cache import FeatureCache
from roco_caption.feature_table import Features, side_by_side, to_float16
from roco_caption.files import UserError
from roco_caption.grids import read_grid_file
from roco_caption.locks import lock
from roco_caption.memory import memory_for
from roco_caption.named_arrays import read_named
from roco_caption.progress import progress_bar
from roco_caption.sealed import checksum
from roco_caption.shards import read_shards

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


def read_features_file(path: str | os.PathLike) -> Features:
    """Read features that were computed elsewhere.

    Args:
        path: an .npz with `names` (the images' file stems, n) and `features` (n, d); or a folder
            of shards, whose features are read into memory and whose grids stay there. Several,
            with commas between them, are put side by side: see `side_by_side`.

    Raises:
        UserError: a file is missing, is no such .npz, or its features are not finite numbers; or
            no image has features in all of them.
    """
    several = [path] if Path(path).exists() else [part.strip() for part in str(path).split(",")]
    return side_by_side([_read_features(part) for part in several])


def _read_features(path: str | os.PathLike) -> Features:
    if Path(path).is_dir():
        found = read_shards(path)
        print(f"Features of {len(found.ids):,} images read from the shards in {path}")
        return replace(found, matrix=found.matrix.values[found.matrix.rows])
    names, arrays = read_named(path, "FEATURES_FILE", "features", ("d",))
    matrix = arrays["features"]
    encoder = {"name": Path(path).stem, "layer": "given", "weights": f"sha256 {checksum(path)}"}
    print(f"Features of {len(names):,} images ({matrix.shape[1]} values each) read from {path}")
    return Features(names, to_float16(matrix), encoder, {})


def with_grid_file(features: Features, path: str | os.PathLike) -> Features:
    """Add grids that were computed elsewhere; images that have none there are left out.

    Args:
        features: of the images.
        path: as in `read_grid_file`.

    Raises:
        UserError: the file is missing or holds no grids.
    """
    names, grid = read_grid_file(path)
    place = {name: i for i, name in enumerate(names)}
    both = [name for name in features.ids if name in place]
    without = {name: "not in GRID_FILE" for name in features.ids if name not in place}
    rows = grid.take(np.array([place[name] for name in both], np.int64))
    encoder = features.encoder | {"grid_file": grid.identity}
    return Features(both, features.select(both), encoder, features.skipped | without, rows)


def with_features(
    frames: dict[str, pd.DataFrame], features: Features
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray], list[str]]:
    """Keep the images that have features.

    Args:
        frames: {split: DataFrame[id, image, caption]}.
        features: of their images.

    Returns:
        The frames without the images that have none; {split: float16 (n, d)} in the frames'
        order; and a line for each image left out: its id and the reason.

    Raises:
        UserError: no image of a split has features.
    """
    has = {split: frame.id.map(features.__contains__) for split, frame in frames.items()}
    without = [
        f"{name}: {features.skipped.get(name, 'not among the features')}"
        for split, frame in frames.items()
        for name in frame.id[~has[split]]
    ]
    kept = {split: frame[has[split]].reset_index(drop=True) for split, frame in frames.items()}
    for split, frame in kept.items():
        if frame.empty:
            raise UserError(
                f"No image of the {split} split has features. Check that FEATURES_FILE belongs to "
                f"this data set, and the images of the split: {without[:1]}."
            )
    return kept, {split: features.select(list(frame.id)) for split, frame in kept.items()}, without
