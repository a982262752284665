"""Precomputed features and grids: FEATURES_FILE and GRID_FILE."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.pickles import checksum
from roco_caption.data.names import without_extension
from roco_caption.features.shards import read_shards
from roco_caption.features.table import Features, LazyRows, sampled, to_float16

AXES = {"features": "(n, d)", "grid": "(n, cells, channels)", "scale": "(channels)"}
MAX_LOST = 1e-4  # of the features' variance, by rounding to half precision
SAMPLE = 4096  # images that suffice to estimate how much features vary


def read_named(
    path: str | os.PathLike, setting: str, required: str, optional: Sequence[str] = ()
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read from an .npz, which `setting` names, `names`, (n,) texts, and arrays of `AXES`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file["names"].astype(str).ravel().tolist()
            arrays = {key: file[key] for key in (required, *optional) if key in {required, *file}}
        if len(set(names)) != len(names):
            raise ValueError("`names` holds a name twice")
        _check_arrays(arrays, len(names))
    except Exception as error:  # zipfile, NumPy and the system each raise their own kinds
        remedy = _conversion(Path(path)) or (
            "It must be an .npz with the arrays `names`, as texts (`np.array(names, dtype=str)`), "
            f"and `{required}`."
        )
        raise UserError(f"{setting} {path} was not read ({first_line(error)}). {remedy}") from error
    return names, arrays


def _conversion(path: Path) -> str:
    """Return how to convert a pickle of {name: array (d,) or (1, d)}, or one of this project's
    caches, "" for another file."""
    with suppress(OSError), open(path, "rb") as file:
        if file.read(1) == b"\x80":
            return (
                "It is a pickle, which may run any program. If it is yours, convert it:\nimport "
                f"pickle, numpy as np; d = pickle.load(open({str(path)!r}, 'rb')); np.savez("
                f"{str(path.with_suffix('.npz'))!r}, names=list(d['ids'] if 'ids' in d else d), "
                "features=d['features'] if 'ids' in d else np.vstack(list(d.values())))"
            )
    return ""


def matched(names: Sequence[str], ids: Iterable[str], source: str) -> list[str]:
    """Return the image ids that names mean; names of no image stay as they are.

    A name may have folders and an extension that the id lacks, or lack those that it has. Raises a
    UserError, which names `source`, if a name means several images or several names mean one.
    """
    ids = set(ids)
    by_stem: dict[str, list[tuple[str, list[Any]]]] = defaultdict(list)
    for image in sorted(ids.difference(names)):
        stem, *its = _parts(image)
        by_stem[stem].append((image, its))
    name_of: dict[str, str] = {}
    for name in names:
        stem, *parts = _parts(name)
        alike = [] if name in ids else by_stem[stem]
        image, *others = [image for image, its in alike if _fit(parts, its)] or [name]
        problem = f"{name!r} may mean {image!r} or {others[0]!r}" if others else ""
        if image in name_of:
            problem = f"both {name_of[image]!r} and {name!r} mean {image!r}"
        if problem:
            raise UserError(f"{source}: {problem}. Use the images' ids as names.")
        name_of[image] = name
    return list(name_of)


def _fit(ours: list[Any], theirs: list[Any]) -> bool:
    (folders, end), (others, other_end) = ours, theirs
    nested = folders <= others or others <= folders
    return nested and (end == other_end or "" in (end, other_end))


def _parts(name: str) -> tuple[str, frozenset[str], str]:
    """Return a name's stem, its folders with that, and its extension, "" if not an image's."""
    path = normalize("NFC", name.replace("\\", "/"))
    stem = without_extension(path)
    folders = stem.split("/")
    return folders[-1], frozenset(folders), path.removeprefix(stem).lower()


def _check_arrays(arrays: dict[str, np.ndarray], count: int) -> None:
    largest = np.finfo(np.float32).max
    for key, array in arrays.items():
        length = arrays.get("grid", array).shape[-1:] if key == "scale" else (count,)
        if array.ndim != len(AXES[key].split()) or array.shape[:1] != length:
            raise ValueError(f"`{key}` must be {AXES[key]}, {count} names, not {array.shape}")
        if key == "grid" and math.isqrt(array.shape[1]) ** 2 != array.shape[1]:
            raise ValueError(
                f"`grid` has {array.shape[1]} cells per image, which form no square such as 7 × 7; "
                "a vision transformer's class token is no cell"
            )
        if not -largest <= array.min(initial=0) <= array.max(initial=0) <= largest:
            raise ValueError(f"`{key}` contains NaN, inf or numbers beyond single precision")


def read_features_file(
    path: str | os.PathLike, *, with_grid: bool = True, ids: Iterable[str] | None = None
) -> Features:
    """Read precomputed features, with the grids of an .npz only if `with_grid`.

    `path` is an .npz with `names` (n,), `features` (n, d), and perhaps `grid` and `scale` as in
    `read_grid_file`; or a folder of shards, whose grids stay on disk. Names are `matched` to `ids`,
    if given.
    """
    path = Path(path).expanduser()
    features, source = _read_features(path, with_grid), f"FEATURES_FILE {path}"
    if len(features.ids) > 1 and (features.matrix == features.matrix[0]).all():
        raise UserError(f"{source} holds the same features for all images. Compute them again.")
    return features if ids is None else replace(features, ids=matched(features.ids, ids, source))


def _read_features(path: Path, with_grid: bool) -> Features:
    if path.is_dir():
        features = read_shards(path)
        print(f"Features of {len(features.ids):,} images read from the shards in {path}")
        return replace(features, matrix=features.matrix.values[features.matrix.rows])
    grids = ("grid", "scale") if with_grid else ()
    names, arrays = read_named(path, "FEATURES_FILE", "features", grids)
    matrix, identity = compact(arrays["features"]), f"sha256 {checksum(path)}"
    if matrix.dtype != np.float16:
        print(f"{path}: half precision would blur these features, so they stay in float32.")
    print(f"Features of {len(names):,} images ({matrix.shape[1]} values each) read from {path}")
    grid = _grid(arrays, identity, path) if "grid" in arrays else None
    encoder = {"name": path.stem, "layer": "given", "weights": identity}
    return Features(names, matrix, encoder, {}, grid)


def compact(rows: np.ndarray) -> np.ndarray:
    """Return rows (n, d) in half precision, or in float32 if that would blur their differences."""
    rows = np.asarray(rows, np.float32)
    half, sample = to_float16(rows), sampled(len(rows), SAMPLE)
    exact = rows[sample].astype(np.float64)
    varied = np.square(exact - exact.sum(axis=0) / max(len(exact), 1)).sum()
    return half if np.square(exact - half[sample]).sum() <= MAX_LOST * varied else rows


def with_grid_file(features: Features, path: str | os.PathLike) -> Features:
    """Add the grids of `read_grid_file`, and leave out images that have none."""
    path = Path(path).expanduser()
    names, grid = read_grid_file(path)
    row = {name: i for i, name in enumerate(matched(names, features.ids, f"GRID_FILE {path}"))}
    ids = [name for name in features.ids if name in row]
    left_out = {name: "not in GRID_FILE" for name in features.ids if name not in row}
    grid = grid.take(np.array([row[name] for name in ids], np.int64))
    encoder = features.encoder | {"grid_file": grid.identity}
    return Features(ids, features.select(ids), encoder, features.skipped | left_out, grid)


def read_grid_file(path: str | os.PathLike) -> tuple[list[str], LazyRows]:
    """Read an .npz of `names` (n,), `grid` (n, cells, channels), and if that is int8, `scale`."""
    names, arrays = read_named(path, "GRID_FILE", "grid", ("scale",))
    return names, _grid(arrays, f"sha256 {checksum(path)}", path)


def _grid(arrays: dict[str, np.ndarray], identity: str, path: str | os.PathLike) -> LazyRows:
    values, scale = arrays["grid"], arrays.get("scale")
    print(f"Grids of {len(values):,} images ({values.shape[1]} cells each) read from {path}")
    scale = None if scale is None else scale.astype(np.float32)
    return LazyRows(values, np.arange(len(values)), scale, identity)
