"""The encoders by name: where Keras has them, where each is cut, which weights are its own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.machine import attached
from roco_caption.core.pickles import checksum


@dataclass(frozen=True)
class Architecture:
    """A line of the encoders' table.

    Attributes:
        module: of `keras.applications`, and the folder of its weights on Keras' server.
        network: what builds it there.
        layer: whose output describes the whole image.
        grid: whose output describes its parts; of the one that averages them all, its input.
        file: its weights, as they are published.
        digest: their MD5 or SHA-256; empty where Keras does not publish them.
        size: side of its images in pixels.
        preprocessing: the module whose `preprocess_input` is the right one, if not its own.
        scale: what the result of that is multiplied by.
    """

    module: str
    network: str
    layer: str
    grid: str
    file: str
    digest: str = ""
    size: int = 224
    preprocessing: str = ""
    scale: float = 1.0

    @property
    def algorithm(self) -> str:
        """Which of the two the digest is, as hashlib names it."""
        return "md5" if len(self.digest) == 32 else "sha256"


ENCODERS = {
    "vgg16": Architecture(
        "vgg16", "VGG16", "fc2", "block5_conv3",
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b",
    ),
    "resnet50": Architecture(
        "resnet", "ResNet50", "avg_pool", "conv5_block3_out",
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5", "2cb95161c43110f7111970584f804107",
    ),
    "densenet121": Architecture(
        "densenet", "DenseNet121", "avg_pool", "relu",
        "densenet121_weights_tf_dim_ordering_tf_kernels.h5", "9d60b8095a5708f2dcce2bca79d332c7",
    ),
    "efficientnetv2b0": Architecture(
        "efficientnet_v2", "EfficientNetV2B0", "avg_pool", "top_activation",
        "efficientnetv2-b0.h5", "21ecbf6da12460d5c40bb2f29ceb2188",
    ),
    "convnext_tiny": Architecture(
        "convnext", "ConvNeXtTiny", "convnext_tiny_head_layernorm",
        "convnext_tiny_head_gap", "convnext_tiny.h5",
        "8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
    ),
    # Trained on 1.35 million radiology images (Mei et al. 2022). Its authors' training scripts
    # scale pixels so: https://github.com/BMEII-AI/RadImageNet
    "radimagenet_resnet50": Architecture(
        "resnet", "ResNet50", "avg_pool", "conv5_block3_out",
        "RadImageNet-ResNet50_notop.h5", preprocessing="imagenet_utils", scale=1 / 255,
    ),
    "radimagenet_densenet121": Architecture(
        "densenet", "DenseNet121", "avg_pool", "relu",
        "RadImageNet-DenseNet121_notop.h5", preprocessing="imagenet_utils", scale=1 / 255,
    ),
}  # fmt: skip


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
