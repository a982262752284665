"""The encoder: a network of keras.applications, cut at its feature layer, with its weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from roco_caption.encoder_table import ENCODERS, Architecture
from roco_caption.encoder_weights import (
    clouds,
    imagenet_weights,
    load_weights,
    normalise,
    randomise,
)
from roco_caption.files import UserError
from roco_caption.sealed import checksum

GRID_SIDE = 7  # cells a side of what attention sees: ROCO's grids are 4.1 GB, finer ones 16 GB


def describe(name: str, weights: str, seed: int = 0, *, with_grid: bool = False) -> dict[str, Any]:
    """Return what identifies an encoder's features, without building it.

    Args:
        name: a key of `ENCODERS`.
        weights: `"imagenet"`, `"random"`, or the path of a weights file.
        seed: of random weights.
        with_grid: whether grid features are made beside the pooled ones.

    Raises:
        UserError: there is no such encoder or no such file.
    """
    if name not in ENCODERS:
        raise UserError(f"ENCODER is {name!r}; it must be one of {', '.join(ENCODERS)}.")
    kind = ENCODERS[name]
    if weights == "imagenet":
        if not kind.digest:
            raise UserError(
                f"{name} has no ImageNet weights. Set ENCODER_WEIGHTS to the path of its own: "
                f"{kind.file}, see https://github.com/BMEII-AI/RadImageNet."
            )
        identity = f"imagenet {kind.algorithm} {kind.digest}"
    elif weights == "random":
        identity = f"random seed {seed}"
    elif Path(weights).is_file():
        identity = f"{Path(weights).name} sha256 {checksum(weights)}"
    else:
        raise UserError(
            f"ENCODER_WEIGHTS is {weights!r}, and there is no such file. Give 'imagenet', "
            "'random', or the path of a Keras weights file."
        )
    return {
        "name": name,
        "layer": kind.layer,
        "weights": identity,
        "image_size": kind.size,
        "preprocessing": f"keras.applications.{kind.preprocessing or kind.module}.preprocess_input"
        + (f" times {kind.scale:.5f}" if kind.scale != 1 else "")
        + ", bilinear",
    } | ({"grid": kind.grid} if with_grid else {})


def build_encoder(
    name: str,
    weights: str,
    *,
    seed: int = 0,
    precision: str = "float32",
    with_grid: bool = False,
) -> Any:
    """Build the encoder.

    Args:
        name: a key of `ENCODERS`.
        weights: `"imagenet"` (taken from a data set attached on Kaggle, else downloaded once by
            Keras), `"random"` (He-normal, seeded; the same on every machine and backend), or the
            path of a weights file; of networks that pool the last convolutions, the top layers
            may be missing in it.
        seed: of random weights.
        precision: Keras dtype policy to compute in.
        with_grid: whether to return, of the same pass, what the last convolutions made of each
            part of the image.

    Returns:
        A `keras.Model` from uint8 (n, size, size, 3), RGB, to (n, d); with the grid to that and
        (n, cells, channels), the cells row by row.

    Raises:
        WeightsUnavailable: ImageNet weights could not be downloaded.
        UserError: the weights file does not fit the network.
    """
    import keras

    kind = ENCODERS[name]
    if weights == "imagenet":
        weights = imagenet_weights(name)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = getattr(_application(kind.module), kind.network)(weights=None)
    finally:
        keras.config.set_dtype_policy(policy)
    outputs, last = [network.get_layer(kind.layer).output], network.get_layer(kind.grid)
    cells = last.input if isinstance(last, keras.layers.GlobalAveragePooling2D) else last.output
    trunk = keras.Model(network.input, cells)
    if with_grid:
        # the average of neighbours says better where something is than block5_pool's maximum
        cells = keras.layers.AveragePooling2D(cells.shape[1] // GRID_SIDE, name="average")(cells)
        outputs.append(keras.layers.Reshape((-1, cells.shape[-1]), name="cells")(cells))
    tower = keras.Model(network.input, outputs if with_grid else outputs[0])
    if weights == "random":
        randomise(network, seed)
        normalise(network, _scaled(kind, clouds(kind.size, seed)))
    else:
        # a file without the top will do where nothing of the top is used
        load_weights([network, trunk][: 1 + (len(trunk.weights) == len(tower.weights))], weights)
    pixels = keras.Input((kind.size, kind.size, 3), dtype="uint8", name="pixels")
    encoder = keras.Model(pixels, tower(_scaled(kind, pixels)), name=name)
    # XLA was slower for VGG16 on a CPU; JAX has nothing else
    encoder.compile(jit_compile=keras.backend.backend() == "jax")
    return encoder


def _application(module: str) -> Any:
    return importlib.import_module(f"keras.applications.{module}")


def _scaled(kind: Architecture, pixels: Any) -> Any:
    """Return pixels as the network was trained on them."""
    import keras

    preprocess = _application(kind.preprocessing or kind.module).preprocess_input
    return preprocess(keras.ops.cast(pixels, "float32")) * kind.scale
