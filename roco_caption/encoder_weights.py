"""An encoder's weights: ImageNet's from Keras' server, a file's, or random ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from roco_caption.encoder_table import ENCODERS
from roco_caption.files import UserError, first_line
from roco_caption.places import attached


class WeightsUnavailable(UserError):
    """ImageNet weights that could not be had; the message says how to supply them."""


def imagenet_weights(name: str) -> str:
    """Return where an encoder's ImageNet weights lie, downloaded if need be.

    Args:
        name: a key of `ENCODERS`.

    Raises:
        WeightsUnavailable: they could not be downloaded.
    """
    import keras

    kind = ENCODERS[name]
    for path in attached(kind.file):  # so that Kaggle needs no internet
        with open(path, "rb") as file:
            if hashlib.file_digest(file, kind.algorithm).hexdigest() == kind.digest:
                return str(path)
        print(f"{path} has another checksum than Keras' file and is left out.")
    base = "https://storage.googleapis.com/tensorflow/keras-applications"
    url = f"{os.environ.get('ROCO_WEIGHTS_SERVER', base)}/{kind.module}/{kind.file}"
    try:
        return keras.utils.get_file(kind.file, url, cache_subdir="models", file_hash=kind.digest)
    except Exception as error:  # Keras raises plain Exception when a download fails
        raise WeightsUnavailable(
            f"The ImageNet weights of {name} could not be downloaded ({first_line(error)}). "
            f"Put the file {kind.file} into ~/.keras/models (or KERAS_HOME/models), or set "
            "ENCODER_WEIGHTS to its path; 'random' runs without it, for trying things out."
        ) from error


def load_weights(networks: Sequence[Any], path: str) -> None:
    """Load a file into the first of some networks, which share their layers, that it fits.

    Raises:
        UserError: it fits none.
    """
    whole, *parts = networks
    try:
        whole.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        for part in parts:
            with contextlib.suppress(Exception):
                return part.load_weights(path)
        raise UserError(
            f"{path} could not be loaded into {whole.name} ({first_line(error)}). It must hold "
            "the weights of the whole network, top layers included, as Keras saves them"
            + "; its top layers alone may be missing." * bool(parts)
            + "." * (not parts)
        ) from error


def randomise(network: Any, seed: int) -> None:
    """Draw He-normal kernels (He et al. 2015, "Delving Deep into Rectifiers") and zero biases.

    Drawn by NumPy, so that they are the same on every backend.
    """
    rng = np.random.default_rng(seed)
    for variable in network.weights:
        if len(variable.shape) < 2:
            continue  # biases, and the scale and shift of normalisation, start as Keras sets them
        inputs = variable.shape[:-1] if variable.shape[-1] > 1 else variable.shape[:-2]  # depthwise
        scale = np.float32(np.sqrt(2 / np.prod(inputs)))
        variable.assign(rng.standard_normal(variable.shape, dtype=np.float32) * scale)


def normalise(network: Any, images: Any) -> None:
    """Let batch normalisation, where there is any, measure what random weights make of images.

    Untrained, it would normalise nothing: in a deep network values would grow or vanish from
    block to block.

    Args:
        network: of random weights.
        images: float (n, size, size, 3), as the network takes them.
    """
    import keras

    layer_type = keras.layers.BatchNormalization
    layers = [layer for layer in network.layers if isinstance(layer, layer_type)]
    if not layers:
        return
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # these images alone count
    network(images, training=True)
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum


def clouds(size: int, seed: int) -> Any:
    """Return pictures of soft colours to normalise by, float32 (8, size, size, 3), 0 to 255."""
    import keras

    patches = np.random.default_rng(seed).uniform(0, 255, (8, 6, 6, 3)).astype(np.float32)
    return keras.ops.image.resize(patches, (size, size), interpolation="bilinear")
