"""The encoders by name: where Keras has them, where each is cut, which weights are its own."""

from __future__ import annotations

from dataclasses import dataclass


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
