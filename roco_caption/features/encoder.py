"""Image encoders from `keras.applications` and KerasHub; to add one, add a line to `ENCODERS`."""

import importlib
import os
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
    """A network of `keras.applications` or KerasHub, what of it is used, and its weights."""

    module: str  # in `keras.applications`; also the weights' folder on Keras' server
    network: str  # its constructor in that module
    layer: str  # its output is the feature vector of an image; cells are averaged
    grid: str  # its output is the grid of cells; of a global average pooling, its input
    file: str  # the weights as published
    digest: str = ""  # their MD5 or SHA-256; empty if Keras does not publish them
    size: int = 224  # side of the images in pixels
    preprocessing: str = ""  # module whose `preprocess_input` applies; empty if it is `module`
    scale: float = 1.0  # factor applied after that
    top: bool = True  # whether `file` and the network have the top layers
    preset: str = ""  # Kaggle's name of KerasHub's weights, with their version

    @property
    def algorithm(self) -> str:
        return "md5" if len(self.digest) == 32 else "sha256"


GRID_SIDE = 7  # cells per side of the grid: ROCO's take 4.1 GB, finer ones would take 16 GB
ENCODERS = {
    "vgg16": Architecture("vgg16", "VGG16", "fc2", "block5_conv3",
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b"),
    "vgg16_pool": Architecture("vgg16", "VGG16", "block5_pool", "block5_conv3",
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc",
        top=False),
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
    # MobileNetV2's pixels are those of the preset's image converter: from -1 to 1
    "vit_base": Architecture("vit", "ViTBackbone", "class_token", "patch_tokens",
        "model.weights.h5", preprocessing="mobilenet_v2",
        preset="keras/vit/keras/vit_base_patch16_224_imagenet/3"),
}  # fmt: skip


class WeightsUnavailable(UserError):
    """ImageNet weights could not be downloaded; the message says how to supply them."""


def imagenet_weights(name: str) -> str:
    """Return the path of an encoder's ImageNet weights, after downloading them if needed."""
    architecture = ENCODERS[name]
    file, digest = architecture.file, architecture.digest
    offline = attached(file) if digest else []  # a data set attached on Kaggle works offline
    for path in offline:
        if checksum(path, architecture.algorithm) == digest:
            return str(path)
        print(f"{path} is ignored: its checksum differs from that of Keras' file.")
    base = "https://storage.googleapis.com/tensorflow/keras-applications"
    url = f"{os.environ.get('ROCO_WEIGHTS_SERVER', base)}/{architecture.module}/{file}"
    try:
        if architecture.preset:  # the downloader that KerasHub uses
            return importlib.import_module("kagglehub").model_download(architecture.preset, file)
        return keras.utils.get_file(file, url, cache_subdir="models", file_hash=digest)
    except Exception as error:  # Keras raises plain Exception when a download fails
        place = "Put them into ~/.keras/models (or KERAS_HOME/models), or set" if digest else "Set"
        raise WeightsUnavailable(
            f"The ImageNet weights {file} of {name} could not be downloaded ({first_line(error)}). "
            f"{place} ENCODER_WEIGHTS to their path, or to 'random' for a trial run."
        ) from error


def keras_hub(name: str) -> Any:
    """Return the package KerasHub, imported only for the encoder that needs it."""
    try:
        return importlib.import_module("keras_hub")
    except Exception as error:  # TensorFlow Text of another TensorFlow raises other kinds
        raise UserError(
            f"ENCODER {name!r} needs KerasHub ({first_line(error)}). Run: pip install keras-hub"
        ) from error


def _network(name: str, *, top: bool) -> Any:
    """Build the network of an encoder with new weights, with or without top layers."""
    architecture = ENCODERS[name]
    shape = (architecture.size, architecture.size, 3)
    if architecture.preset:
        sizes = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
        return keras_hub(name).models.ViTBackbone(image_shape=shape, patch_size=16, **sizes)
    module = importlib.import_module(f"keras.applications.{architecture.module}")
    return getattr(module, architecture.network)(weights=None, include_top=top, input_shape=shape)


def _outputs(architecture: Architecture, network: Any) -> tuple[Any, Any]:
    """Return the tensors of the features (n, d) and of the cells (n, rows, columns, channels)."""
    if architecture.preset:  # a class token, then one token per patch
        tokens = network.output
        return tokens[:, 0], keras.layers.Reshape((14, 14, -1))(tokens[:, 1:])
    last = network.get_layer(architecture.grid)
    cells = last.input if isinstance(last, keras.layers.GlobalAveragePooling2D) else last.output
    features = network.get_layer(architecture.layer).output
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D(name="mean")(features)
    return features, cells


def load_weights(name: str, network: Any, tower: Any, convolutions: Any, path: str) -> None:
    """Load a file of the whole network, or of its convolutions if `tower` uses nothing else."""
    error = _misfit(network, path)
    if error is None:
        return
    no_top = _misfit(convolutions, path) is None
    if no_top and len(tower.weights) == len(convolutions.weights):
        return
    if not ENCODERS[name].top:
        whole = _network(name, top=True)
        if _misfit(whole, path) is None:
            network.set_weights(whole.get_weights()[: len(network.weights)])
            return
    problem = f"{first_line(error)}. Choose a file of that network's weights as Keras saves them"
    if no_top:
        kind = ENCODERS[name].network
        others = [k for k, line in ENCODERS.items() if line.network == kind and not line.top]
        choices = " or ".join(["a file that has them", *(f"ENCODER = {k!r}" for k in others)])
        problem = f"it lacks the top layers, which {ENCODERS[name].layer} needs. Choose {choices}"
    raise UserError(f"{path} could not be loaded into {name}: {problem}.") from error


def _misfit(network: Any, path: str) -> Exception | None:
    """Load a file into a network; return the error if it does not fit."""
    try:
        network.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds
        return error
    return None


def randomise(network: Any, seed: int) -> None:
    """Draw He-normal kernels (He et al. 2015, "Delving Deep into Rectifiers")."""
    rng = np.random.default_rng(seed)  # NumPy's, so that all backends have the same weights
    for variable in network.weights:
        if variable.name == "bias":  # KerasHub draws them, each time others
            variable.assign(keras.ops.zeros(variable.shape))
        if variable.name == "bias" or len(variable.shape) < 2:
            continue  # normalisation keeps its initial values
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
        if not (architecture.digest or architecture.preset):
            raise UserError(
                f"{name} has no ImageNet weights. Set ENCODER_WEIGHTS to the path of "
                f"{architecture.file}, see https://github.com/BMEII-AI/RadImageNet."
            )
        published = f"{architecture.algorithm} {architecture.digest}"
        identity = f"imagenet {architecture.preset or published}"
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
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = _network(name, top=architecture.top)
    finally:
        keras.config.set_dtype_policy(policy)
    outputs, cells = _outputs(architecture, network)
    convolutions = keras.Model(network.input, cells)
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
        load_weights(name, network, tower, convolutions, path)
    pixels = keras.Input((architecture.size, architecture.size, 3), dtype="uint8", name="pixels")
    encoder = keras.Model(pixels, tower(_preprocessed(architecture, pixels)), name=name)
    # XLA was slower for VGG16 on a CPU; JAX has nothing else
    encoder.compile(jit_compile=keras.backend.backend() == "jax")
    return encoder


def _preprocessed(architecture: Architecture, pixels: Any) -> Any:
    name = architecture.preprocessing or architecture.module
    module = importlib.import_module(f"keras.applications.{name}")
    return module.preprocess_input(keras.ops.cast(pixels, "float32")) * architecture.scale
