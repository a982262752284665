"""Caption radiology images: VGG16 features, an Embedding + LSTM merge decoder, one notebook."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Captioner", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Captioner":  # imported on first use: it loads Keras
        from roco_caption.search.captioner import Captioner

        return Captioner
    raise AttributeError(f"module 'roco_caption' has no attribute {name!r}")
