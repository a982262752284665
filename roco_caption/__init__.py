"""Caption radiology images: VGG16 features, an Embedding + LSTM merge decoder, one notebook."""

__version__ = "0.1.0"
