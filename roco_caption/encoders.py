"""The encoder: a network of keras.applications, cut at its feature layer, with its weights."""

from __future__ import annotations

import hashlib
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.files import UserError, first_line
from roco_caption.places import attached
from roco_caption.sealed import checksum


@dataclass(frozen=True)
class Architecture:
    """A line of the encoders' table: a network of `keras.applications`, and the layers read."""

    module: str
    network: str
    layer: str
    grid: str
    size: int
    file: str
    md5: str


ENCODERS = {
    "vgg16": Architecture(
        module="vgg16",
        network="VGG16",
        layer="fc2",
        grid="block5_conv3",
        size=224,
        file="vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        md5="64373286793e3c8b2b4e3219cbf3544b",
    ),
}


GRID_SIDE = 7  # cells a side of what attention sees: ROCO's grids are 4.1 GB, finer ones 16 GB


class WeightsUnavailable(UserError):
    """ImageNet weights that could not be had; the message says how to supply them."""


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
        identity = f"imagenet md5 {kind.md5}"
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
        "preprocessing": f"keras.applications.{kind.module}.preprocess_input, bilinear",
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
            path of a weights file.
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
        weights = _imagenet_weights(name)
    module = importlib.import_module(f"keras.applications.{kind.module}")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = getattr(module, kind.network)(weights=None)
    finally:
        keras.config.set_dtype_policy(policy)
    if weights == "random":
        _randomise(network, seed)
    else:
        _load_weights(network, weights)
    pixels = keras.Input((kind.size, kind.size, 3), dtype="uint8", name="pixels")
    outputs = [network.get_layer(kind.layer).output]
    if with_grid:
        cells = network.get_layer(kind.grid).output
        # the average of neighbours says better where something is than block5_pool's maximum
        cells = keras.layers.AveragePooling2D(cells.shape[1] // GRID_SIDE, name="average")(cells)
        outputs.append(keras.layers.Reshape((-1, cells.shape[-1]), name="cells")(cells))
    tower = keras.Model(network.input, outputs if with_grid else outputs[0])
    scaled = module.preprocess_input(keras.ops.cast(pixels, "float32"))
    encoder = keras.Model(pixels, tower(scaled), name=name)
    # XLA was slower for VGG16 on a CPU; JAX has nothing else
    encoder.compile(jit_compile=keras.backend.backend() == "jax")
    return encoder


def _imagenet_weights(name: str) -> str:
    import keras

    kind = ENCODERS[name]
    for path in attached(kind.file):  # so that Kaggle needs no internet
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() == kind.md5:
                return str(path)
        print(f"{path} has another checksum than Keras' file and is left out.")
    base = "https://storage.googleapis.com/tensorflow/keras-applications"
    url = f"{os.environ.get('ROCO_WEIGHTS_SERVER', base)}/{kind.module}/{kind.file}"
    try:
        return keras.utils.get_file(kind.file, url, cache_subdir="models", file_hash=kind.md5)
    except Exception as error:  # Keras raises plain Exception when a download fails
        raise WeightsUnavailable(
            f"The ImageNet weights of {name} could not be downloaded ({first_line(error)}). "
            f"Put the file {kind.file} into ~/.keras/models (or KERAS_HOME/models), or set "
            "ENCODER_WEIGHTS to its path; 'random' runs without it, for trying things out."
        ) from error


def _load_weights(network: Any, path: str) -> None:
    try:
        network.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        raise UserError(
            f"{path} could not be loaded into {network.name} ({first_line(error)}). It must hold "
            "the weights of the whole network, top layers included, as Keras saves them."
        ) from error


def _randomise(network: Any, seed: int) -> None:
    """Draw He-normal kernels (He et al. 2015, "Delving Deep into Rectifiers") and zero biases.

    Drawn by NumPy, so that they are the same on every backend.
    """
    rng = np.random.default_rng(seed)
    for variable in network.weights:
        if len(variable.shape) < 2:
            continue  # biases, and the scale and shift of normalisation, start as Keras sets them
        scale = np.float32(np.sqrt(2 / np.prod(variable.shape[:-1])))
        variable.assign(rng.standard_normal(variable.shape, dtype=np.float32) * scale)
