"""A small data set that can be learned, and a training on it."""

import keras
import numpy as np

from roco_caption.decoder.model import build_decoder
from roco_caption.text.tokenizer import END, START
from roco_caption.training.captions import CaptionData
from roco_caption.training.loop import train

SIZES = {
    "vocab_size": 14, "max_len": 6, "feature_size": 5, "components": 5, "embedding_size": 8,
    "units": 16, "dropout": 0.2,
}  # fmt: skip


def toy(n: int, seed: int) -> CaptionData:
    """Captions whose words name the largest feature: learnable, but only by looking."""
    features = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float16)
    tokens = np.zeros((n, 7), np.int32)
    for row, largest in zip(tokens, features.argmax(axis=1), strict=True):
        words = [9, 4 + largest, *[10 + largest % 3] * (largest % 2), 13]
        row[: len(words) + 2] = [START, *words, END]
    return CaptionData(features, tokens)


def fresh():
    keras.utils.set_random_seed(0)
    return build_decoder(**SIZES)


def run(folder, decoder=None, **options):
    options = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02} | options
    decoder = decoder or fresh()
    history = train(decoder, toy(96, 0), toy(40, 1), folder, **options)
    return history, [np.asarray(w) for w in decoder.every_word.weights]
