"""Image encoders from `keras.applications`; to add one, add a line to `ENCODERS`."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.machine import attached
from roco_caption.core.pickles import checksum


@dataclass(frozen=True)
class Architecture:
    """A network of `keras.applications`, the layers that are used, and its weights."""

    module: str  # in `keras.applications`; also the weights' folder on Keras' server
    network: str  # its constructor in that module
    layer: str  # its output is the feature vector of an image
    grid: str  # its output is the grid of cells; of a global average pooling, its input
    file: str  # the weights as published
    digest: str = ""  # their MD5 or SHA-256; empty if Keras does not publish them
    size: int = 224  # side of the images in pixels
    preprocessing: str = ""  # module whose `preprocess_input` applies; empty if it is `module`
    scale: float = 1.0  # factor applied after that

    @property
    def algorithm(self) -> str:
        return "md5" if len(self.digest) == 32 else "sha256"


GRID_SIDE = 7  # cells per side of the grid: ROCO's take 4.1 GB, finer ones would take 16 GB
ENCODERS = {
    "vgg16": Architecture("vgg16", "VGG16", "fc2", "block5_conv3",
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b"),
    "resnet50": Architecture("resnet", "ResNet50", "avg_pool", "conv5_block3_out",
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5", "2cb95161c43110f7111970584f804107"),
    "densenet121": Architecture("densenet", "DenseNet121", "avg_pool", "relu",
        "densenet121_weights_tf_dim_ordering_tf_kernels.h5", "9d60b8095a5708f2dcce2bca79d332c7"),
    "efficientnetv2b0": Architecture(
        "efficientnet_v2", "EfficientNetV2B0", "avg_pool", "top_activation",
        "efficientnetv2-b0.h5", "21ecbf6da12460d5c40bb2f29ceb2188"),
    "convnext_tiny": Architecture(
        "convnext", "ConvNeXtTiny", "convnext_tiny_head_layernorm", "convnext_tiny_head_gap",
        "convnext_tiny.h5", "8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff"),
    # Trained on 1.35 million radiology images (Mei et al. 2022); pixels are scaled as in the
    # authors' training scripts: https://github.com/BMEII-AI/RadImageNet
    "radimagenet_resnet50": Architecture("resnet", "ResNet50", "avg_pool", "conv5_block3_out",
        "RadImageNet-ResNet50_notop.h5", preprocessing="imagenet_utils", scale=1 / 255),
    "radimagenet_densenet121": Architecture("densenet", "DenseNet121", "avg_pool", "relu",
        "RadImageNet-DenseNet121_notop.h5", preprocessing="imagenet_utils", scale=1 / 255),
}  # fmt: skip


class WeightsUnavailable(UserError):
    """ImageNet weights could not be downloaded; the message says how to supply them."""


def imagenet_weights(name: str) -> str:
    """Return the path of an encoder's ImageNet weights, after downloading them if needed."""
    architecture = ENCODERS[name]
    file, digest = architecture.file, architecture.digest
    for path in attached(file):  # a data set attached on Kaggle works offline
        if checksum(path, architecture.algorithm) == digest:
            return str(path)
        print(f"{path} is ignored: its checksum differs from that of Keras' file.")
    base = "https://storage.googleapis.com/tensorflow/keras-applications"
    url = f"{os.environ.get('ROCO_WEIGHTS_SERVER', base)}/{architecture.module}/{file}"
    try:
        return keras.utils.get_file(file, url, cache_subdir="models", file_hash=digest)
    except Exception as error:  # Keras raises plain Exception when a download fails
        raise WeightsUnavailable(
            f"The ImageNet weights of {name} could not be downloaded ({first_line(error)}). Put "
            f"{file} into ~/.keras/models (or KERAS_HOME/models), or set ENCODER_WEIGHTS to its "
            "path, or to 'random' for a trial run."
        ) from error


def load_weights(networks: Sequence[Any], path: str) -> None:
    """Load a file into the first network that it fits: the whole, or one without top layers."""
    errors = []
    for network in networks:
        try:
            return network.load_weights(path)
        except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
            errors.append(error)
    raise UserError(
        f"{path} could not be loaded into {networks[0].name} ({first_line(errors[0])}). It must "
        "hold the weights of that network as Keras saves them, with the top layers if used."
    ) from errors[0]


def randomise(network: Any, seed: int) -> None:
    """Draw He-normal kernels (He et al. 2015, "Delving Deep into Rectifiers")."""
    rng = np.random.default_rng(seed)  # NumPy's, so that all backends have the same weights
    for variable in network.weights:
        if len(variable.shape) < 2:
            continue  # biases and normalisation keep their initial values
        inputs = variable.shape[:-1] if variable.shape[-1] > 1 else variable.shape[:-2]  # depthwise
        values = rng.standard_normal(variable.shape, dtype=np.float32)
        values *= np.float32(np.sqrt(2 / np.prod(inputs)))  # in place: VGG16's fc1 has 411 MB
        variable.assign(values)


def calibrate_normalisation(network: Any, architecture: Architecture, seed: int) -> None:
    """Set batch normalisation's statistics, or values would grow or vanish from block to block."""
    kind = keras.layers.BatchNormalization
    layers = [layer for layer in network.layers if isinstance(layer, kind)]
    if not layers:
        return
    for layer in layers:
        layer.momentum = 0.0  # only these images count
    patches = np.random.default_rng(seed).uniform(0, 255, (8, 6, 6, 3)).astype(np.float32)
    images = keras.ops.image.resize(patches, (architecture.size,) * 2, interpolation="bilinear")
    network(_preprocessed(architecture, images), training=True)


def weights_path(weights: str | os.PathLike) -> str:
    """Return the absolute path of a weights file; "imagenet" and "random" as they are."""
    path = os.path.expanduser(weights)
    return path if path in ("imagenet", "random") else os.path.abspath(path)


def describe(name: str, weights: str, seed: int = 0, *, with_grid: bool = False) -> dict[str, Any]:
    """Return what identifies the features of the encoder that `build_encoder` builds."""
    if name not in ENCODERS:
        raise UserError(f"ENCODER must be one of {', '.join(ENCODERS)}, got {name!r}.")
    architecture = ENCODERS[name]
    if weights == "imagenet":
        if not architecture.digest:
            raise UserError(
                f"{name} has no ImageNet weights. Set ENCODER_WEIGHTS to the path of "
                f"{architecture.file}, see https://github.com/BMEII-AI/RadImageNet."
            )
        identity = f"imagenet {architecture.algorithm} {architecture.digest}"
    elif weights == "random":
        identity = f"random seed {seed}"
    elif Path(path := weights_path(weights)).is_file():
        identity = f"{Path(path).name} sha256 {checksum(path)}"
    else:
        raise UserError(
            "ENCODER_WEIGHTS must be 'imagenet', 'random' or the path of a Keras weights file; "
            f"there is no file {weights!r}."
        )
    module = architecture.preprocessing or architecture.module
    factor = f" times {architecture.scale:.5f}" if architecture.scale != 1 else ""
    preprocessing = f"keras.applications.{module}.preprocess_input{factor}, bilinear"
    header = {
        "name": name, "layer": architecture.layer, "weights": identity,
        "image_size": architecture.size, "preprocessing": preprocessing,
    }  # fmt: skip
    return header | ({"grid": architecture.grid} if with_grid else {})


def build_encoder(
    name: str, weights: str, *, seed: int = 0, precision: str = "float32", with_grid: bool = False
) -> Any:
    """Build a `keras.Model` of `ENCODERS`, from RGB pixels, uint8 (n, size, size, 3), to (n, d).

    Args:
        weights: `"imagenet"` (attached on Kaggle, else downloaded once), `"random"` (of `seed`, the
            same everywhere), or a file, without top layers if `layer` averages convolutions.
        precision: Keras dtype policy.
        with_grid: whether to return grids (n, cells, channels), cells row by row, too.

    Raises a UserError if the file does not fit, `WeightsUnavailable` if a download fails.
    """
    architecture = ENCODERS[name]
    path = imagenet_weights(name) if weights == "imagenet" else weights_path(weights)
    module = importlib.import_module(f"keras.applications.{architecture.module}")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = getattr(module, architecture.network)(weights=None)
    finally:
        keras.config.set_dtype_policy(policy)
    last = network.get_layer(architecture.grid)
    cells = last.input if isinstance(last, keras.layers.GlobalAveragePooling2D) else last.output
    convolutions = keras.Model(network.input, cells)
    outputs = network.get_layer(architecture.layer).output
    if with_grid:
        # averages keep more about where something is than the maxima of VGG16's block5_pool
        cells = keras.layers.AveragePooling2D(cells.shape[1] // GRID_SIDE, name="average")(cells)
        cells = keras.layers.Reshape((-1, cells.shape[-1]), name="cells")(cells)
        outputs = [outputs, cells]
    tower = keras.Model(network.input, outputs)
    if weights == "random":
        randomise(network, seed)
        calibrate_normalisation(network, architecture, seed)
    else:
        topless = len(tower.weights) == len(convolutions.weights)  # no weights of the top are used
        load_weights([network, convolutions] if topless else [network], path)
    pixels = keras.Input((architecture.size, architecture.size, 3), dtype="uint8", name="pixels")
    encoder = keras.Model(pixels, tower(_preprocessed(architecture, pixels)), name=name)
    # XLA was slower for VGG16 on a CPU; JAX has nothing else
    encoder.compile(jit_compile=keras.backend.backend() == "jax")
    return encoder


def _preprocessed(architecture: Architecture, pixels: Any) -> Any:
    name = architecture.preprocessing or architecture.module
    module = importlib.import_module(f"keras.applications.{name}")
    return module.preprocess_input(keras.ops.cast(pixels, "float32")) * architecture.scale
