"""The merge decoder `image_captioning`: one set of weights, seen word by word or whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.recurrent import LSTM
from roco_caption.text import PAD

# What the LSTM and the image are carried as from word to word: h, c, image, each (n, units).
State = tuple[Any, Any, Any]


@keras.saving.register_keras_serializable("roco_caption")
class FeatureScaler(layers.Layer):
    """Unit length, then whitened principal components of the training images' features.

    Raw fc2 features are large, correlated, and partly all but constant: dividing those last by
    their tiny deviation would let them drown the rest. After `fit_scaler` every output has unit
    variance on the training images. Both weights are constants of training.

    Args:
        components: length of the result.
    """

    def __init__(self, components: int, **options: Any) -> None:
        super().__init__(**options | {"trainable": False})
        self.components = components

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        size = input_shape[-1]
        self.offset = self.add_weight(shape=(size,), initializer="zeros", name="offset")
        self.projection = self.add_weight(
            shape=(size, self.components), initializer="orthogonal", name="projection"
        )

    def call(self, features: Any) -> Any:
        """Map float (n, d) to float32 (n, components)."""
        return ops.matmul(_unit_length(features) - self.offset, self.projection)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"components": self.components}


def _unit_length(features: Any) -> Any:
    return features / (ops.norm(features, axis=-1, keepdims=True) + 1e-6)


def fit_scaler(features: np.ndarray, components: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Fit the weights of a `FeatureScaler`.

    Args:
        features: of the training images, float (n, d).
        components: principal components kept; fewer are filled where n or d has fewer.

    Returns:
        `offset` float32 (d,) and `projection` float32 (d, components).
    """
    rows = features[:: max(1, len(features) // 16384)].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6
    offset = rows.mean(axis=0)
    rows -= offset
    deviation = rows.std(axis=0)
    # a unit that hardly varies is not blown up to the size of the others
    weight = 1 / np.maximum(deviation, 0.1 * np.median(deviation) + 1e-8)
    rows *= weight
    few = len(rows) < rows.shape[1]  # the smaller of the two matrices has the same spectrum
    values, vectors = np.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
    kept = min(components, int((values > 1e-6 * values[-1]).sum()))
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    axes = rows.T @ vectors / np.sqrt(values) if few else vectors
    projection = np.zeros((rows.shape[1], components), np.float32)
    projection[:, :kept] = weight[:, None] * axes * np.sqrt(len(rows) / values)
    return offset, projection


@keras.saving.register_keras_serializable("roco_caption")
class LastWord(layers.Layer):
    """The LSTM's output at each caption's last word: padding to its right is never looked at."""

    def call(self, outputs: Any, tokens: Any) -> Any:
        """Map float (n, t, units) and int (n, t) to float (n, units)."""
        last = ops.sum(ops.cast(ops.not_equal(tokens, PAD), "int32"), axis=1) - 1
        return ops.take_along_axis(outputs, ops.maximum(last, 0)[:, None, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Captioning:
    """Two views of one decoder, and its step from word to word.

    In the merge architecture (Tanti, Gatt, Camilleri 2018, "Where to put the Image in an Image
    Caption Generator") the image never enters the LSTM, so the LSTM's state after a word is the
    same whether it read the words up to there or the whole caption. One pass over a caption
    therefore trains what one sample per prefix trains, at a fraction of the work.

    Attributes:
        next_word: `image_captioning`, the view of the README's table: `input_img` (n, d),
            `input_txt` (n, t) → probabilities of the next word (n, vocab_size).
        every_word: the training view: the same inputs → logits (n, t, vocab_size), row i for the
            word after `input_txt[:, : i + 1]`.
    """

    next_word: keras.Model
    every_word: keras.Model

    def start(self, features: Any) -> State:
        """Return the state before the first word: LSTM at rest, the image's vector.

        Args:
            features: float (n, d).
        """
        image = self.next_word.get_layer("image")(
            self.next_word.get_layer("scaler")(features), training=False
        )
        rest = ops.zeros((ops.shape(image)[0], self.next_word.get_layer("lstm").units))
        return rest, rest, image

    def step(self, tokens: Any, state: State) -> tuple[Any, State]:
        """Read one word each and return the logits of the next.

        Args:
            tokens: int (n,).
            state: of `start` or of the step before.

        Returns:
            Logits (n, vocab_size) and the new state.
        """
        layer = self.next_word.get_layer
        h, c, image = state
        h, (_, c) = layer("lstm").cell(layer("embedding")(tokens), [h, c], training=False)
        return layer("dense")(layer("hidden")(h + image)), (h, c, image)


def build_captioning(
    *,
    vocab_size: int,
    max_len: int,
    feature_size: int = 4096,
    components: int = 256,
    embedding_size: int = 256,
    units: int = 256,
    dropout: float = 0.5,
    image_dropout: float = 0.1,
) -> Captioning:
    """Build the decoder.

    Args:
        vocab_size: tokens, the special ones included.
        max_len: columns of `input_txt`: the start token and the words.
        feature_size: length d of an image's features.
        components: what the scaler keeps of them.
        embedding_size: length of a word's embedding.
        units: of the LSTM, and of the image's vector that is added to its output.
        dropout: share dropped of the embeddings and of the LSTM's output.
        image_dropout: share dropped of the image's components; they repeat each other little.

    Returns:
        The `Captioning`; its two views share all layers. Padding is 0 and only on the right; the
        LSTM gets no mask, so that cuDNN's fast one serves on NVIDIA cards.
    """
    input_img = keras.Input((feature_size,), name="input_img")
    input_txt = keras.Input((max_len,), dtype="int32", name="input_txt")
    scaled = FeatureScaler(components, name="scaler")(input_img)
    image = layers.Dense(units, name="image")(
        layers.Dropout(image_dropout, name="drop_image")(scaled)
    )
    embedding = layers.Embedding(vocab_size, embedding_size, name="embedding")
    lstm = LSTM(units, name="lstm")
    drop_words, drop_lstm = (layers.Dropout(dropout, name=f"drop_{n}") for n in ("words", "lstm"))
    # what a side or a size looks like depends on the finding: a sum alone could not say that
    hidden = layers.Dense(units, activation="tanh", name="hidden")
    dense = layers.Dense(vocab_size, name="dense")

    # word by word, as in the README's table
    spoken = LastWord(name="last_word")(lstm(drop_words(embedding(input_txt))), input_txt)
    merged = layers.Add(name="merge")([drop_lstm(spoken), image])
    probabilities = layers.Softmax(name="softmax")(dense(hidden(merged)))
    next_word = keras.Model([input_img, input_txt], probabilities, name="image_captioning")

    # whole captions of any length, as trained
    words = keras.Input((None,), dtype="int32", name="input_txt")
    everywhere = layers.Reshape((1, units), name="to_every_word")(image)
    merged = layers.Add(name="merge_every")(
        [drop_lstm(lstm(drop_words(embedding(words)))), everywhere]
    )
    every_word = keras.Model(
        [input_img, words], dense(hidden(merged)), name="image_captioning_training"
    )
    return Captioning(next_word, every_word)
