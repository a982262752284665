"""The loops of the Keras captioning notebooks that people use, written fairly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN


def extract(encoder: keras.Model, paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Encode one image at a time with `predict`.

    Args:
        encoder: float32 (1, 224, 224, 3), preprocessed → (1, d).
        paths: image files.
    """
    for path in paths:
        batch = keras.applications.vgg16.preprocess_input(load(path))
        yield encoder.predict(batch, verbose=0)[0]


def load(path: Path) -> np.ndarray:
    """Decode an image to float32 (1, 224, 224, 3)."""
    image = keras.utils.load_img(path, target_size=(224, 224))
    return np.expand_dims(keras.utils.img_to_array(image), 0)


def model(ours: keras.Model) -> keras.Model:
    """Return `image_captioning` with Keras' own LSTM, as the notebooks have it."""

    def own(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = keras.layers.LSTM if isinstance(layer, keras.layers.LSTM) else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(ours, clone_function=own)


def prefix_batches(
    features: np.ndarray, tokens: np.ndarray, batch_size: int, vocab_size: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Expand captions into one sample for each prefix, with a one-hot target.

    Args:
        features: float (n, d).
        tokens: int32 (n, length): start, words, end, padding.
        batch_size: captions, not samples, a batch: as the notebooks' generators count.
        vocab_size: length of the one-hot targets.
    """
    length = tokens.shape[1] - 1
    for start in range(0, len(tokens), batch_size):
        images, prefixes, targets = [], [], []
        for i in range(start, min(start + batch_size, len(tokens))):
            for j in range(1, int((tokens[i] != PAD).sum())):
                images.append(features[i])
                prefixes.append(np.pad(tokens[i, :j], (0, length - j)))
                targets.append(keras.utils.to_categorical(tokens[i, j], num_classes=vocab_size))
        yield [np.asarray(images, np.float32), np.asarray(prefixes)], np.asarray(targets)


def greedy(model: keras.Model, features: np.ndarray, max_words: int) -> Iterator[list[int]]:
    """Caption image by image, calling `predict` on the whole prefix for every word.

    Args:
        model: `image_captioning`.
        features: float (n, d).
        max_words: words after which a caption ends at the latest.
    """
    length = model.get_layer("input_txt").output.shape[1]
    for image in features.astype(np.float32):
        words = [START]
        while len(words) <= max_words and words[-1] != END:
            prefix = np.pad(words, (0, length - len(words)))[None].astype(np.int32)
            p = model.predict([image[None], prefix], verbose=0)[0]
            p[[PAD, START, UNKNOWN]] = 0
            words.append(int(p.argmax()))
        yield [*words[1:], END] if words[-1] != END else words[1:]
