"""Precomputed features and grids: FEATURES_FILE and GRID_FILE."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.pickles import checksum
from roco_caption.features.shards import read_shards
from roco_caption.features.table import Features, LazyRows, side_by_side, to_float16

AXES = {"features": ("n", "d"), "grid": ("n", "cells", "channels"), "scale": ("channels",)}


def read_named(
    path: str | os.PathLike, setting: str, required: str, optional: Sequence[str] = ()
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read from an .npz, which `setting` names, `names`, (n,) file stems, and arrays of `AXES`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file["names"]]
            keys = [required, *(key for key in optional if key in file)]
            arrays = {key: file[key] for key in keys}
        if len(set(names)) != len(names):
            raise ValueError("`names` holds a name twice")
        _check_arrays(arrays, len(names))
    except Exception as error:  # zipfile, NumPy and the system each raise their own kinds
        raise UserError(
            f"{setting} {path} was not read ({first_line(error)}). It must be an .npz with the "
            f"arrays `names`, as texts (`np.array(names, dtype=str)`), and `{required}`."
        ) from error
    return names, arrays


def _check_arrays(arrays: dict[str, np.ndarray], count: int) -> None:
    sizes = {"n": count}
    for key, array in arrays.items():
        axes = AXES[key]
        sizes = dict(zip(axes, array.shape, strict=False)) | sizes
        if array.shape != tuple(map(sizes.get, axes)):
            raise ValueError(
                f"`{key}` must be ({', '.join(axes)}), {count} names, not {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"`{key}` contains NaN or inf")


def read_features_file(path: str | os.PathLike, *, with_grid: bool = True) -> Features:
    """Read precomputed features, with the grids of an .npz only if `with_grid`.

    `path` is an .npz with `names`, the images' file stems (n,), `features` (n, d), and perhaps
    `grid` and `scale` as in `read_grid_file`; or a folder of shards, whose grids stay on disk.
    Several paths, separated by commas, are joined by `side_by_side`.
    """
    paths = [path] if Path(path).exists() else [part.strip() for part in str(path).split(",")]
    return side_by_side([_read_features(part, with_grid) for part in paths])


def _read_features(path: str | os.PathLike, with_grid: bool) -> Features:
    if Path(path).is_dir():
        features = read_shards(path)
        print(f"Features of {len(features.ids):,} images read from the shards in {path}")
        return replace(features, matrix=features.matrix.values[features.matrix.rows])
    grids = ("grid", "scale") if with_grid else ()
    names, arrays = read_named(path, "FEATURES_FILE", "features", grids)
    matrix, identity = arrays["features"], f"sha256 {checksum(path)}"
    print(f"Features of {len(names):,} images ({matrix.shape[1]} values each) read from {path}")
    grid = _grid(arrays, identity, path) if "grid" in arrays else None
    encoder = {"name": Path(path).stem, "layer": "given", "weights": identity}
    return Features(names, to_float16(matrix), encoder, {}, grid)


def with_grid_file(features: Features, path: str | os.PathLike) -> Features:
    """Add the grids of `read_grid_file`, and leave out images that have none."""
    names, grid = read_grid_file(path)
    row = {name: i for i, name in enumerate(names)}
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
