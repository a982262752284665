"""Reads an .npz of what was computed elsewhere of some images: their names, and an array of it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from roco_caption.files import UserError, first_line


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
