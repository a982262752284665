"""Reads an .npz of what was computed elsewhere of some images: their names, and an array of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.pickles import checksum
from roco_caption.features.shards import read_shards
from roco_caption.features.table import Features, LazyRows, side_by_side, to_float16


def read_named(
    path: str | os.PathLike, setting: str, name: str, axes: Sequence[str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read the arrays of an .npz, one row an image.

    Args:
        path: an .npz with `names` (the images' file stems, n) and the array, perhaps with others.
        setting: the notebook's setting that names the file, for the message.
        name: of the array.
        axes: names of its axes after the first, for the message.

    Returns:
        The names, and all arrays by name; the one asked for is finite and has a row each.

    Raises:
        UserError: the file is missing or is no such .npz.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, values = [str(image) for image in file["names"]], file[name]
            arrays = {key: file[key] for key in file.files if key not in ("names", name)}
        shaped = values.ndim == 1 + len(axes) and len(names) == len(values)
        if not shaped or len(set(names)) != len(names):
            shape = ", ".join(["n", *axes])
            raise ValueError(f"`names` must be n different texts and `{name}` ({shape})")
        if not np.isfinite(values).all():
            raise ValueError(f"`{name}` holds values that are no finite numbers")
    except Exception as error:  # zipfile, NumPy and the system each raise their own kinds
        raise UserError(
            f"{setting} {path} was not read ({first_line(error)}). It must be an .npz with the "
            f"arrays `names`, as texts (`np.array(names, dtype=str)`), and `{name}`."
        ) from error
    return names, arrays | {name: values}


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


def read_grid_file(path: str | os.PathLike) -> tuple[list[str], LazyRows]:
    """Read grids that were computed elsewhere.

    Args:
        path: an .npz with `names` (the images' file stems, n), `grid` (n, cells, channels) and,
            where that holds whole numbers, `scale` (channels,) to multiply it with.

    Returns:
        The names, and the `LazyRows` of those images in that order.

    Raises:
        UserError: the file is missing or is no such .npz.
    """
    names, arrays = read_named(path, "GRID_FILE", "grid", ("cells", "channels"))
    values, scale = arrays["grid"], arrays.get("scale")
    if scale is not None and scale.shape != values.shape[2:]:
        raise UserError(f"GRID_FILE {path} was not read: `scale` must hold one number a channel.")
    scale = None if scale is None else scale.astype(np.float32)
    print(f"Grids of {len(names):,} images ({values.shape[1]} cells each) read from {path}")
    return names, LazyRows(values, np.arange(len(names)), scale, f"sha256 {checksum(path)}")
