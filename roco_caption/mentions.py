"""A second thing to learn, in training alone: which words a caption has, from its image alone."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from roco_caption.text import END, PAD, START, UNKNOWN


@keras.saving.register_keras_serializable("roco_caption")
class Mentions(layers.Layer):
    """Makes an image's vector tell the caption's words, all at once and without their order.

    The next word depends on the words before it more than on the image, so little of the loss
    says what the image's vector should hold. A second, linear output rates each word of the
    vocabulary by the image alone, and learns which ones the caption has, as image tagging does
    (Fang et al. 2015, "From Captions to Visual Concepts and Back"). Its gradient is added, its
    value is not: the loss that training shows stays that of the captions.

    Args:
        vocab_size: tokens, the special ones included.
        weight: of this loss beside that of the captions, both in nats a word.
    """

    def __init__(self, vocab_size: int, weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.vocab_size, self.weight = vocab_size, weight
        self.scores = layers.Dense(vocab_size, name="scores")

    def build(self, tokens_shape: Any, image_shape: Any) -> None:
        self.scores.build(image_shape)

    def call(self, tokens: Any, image: Any, training: bool = False) -> Any:
        """Return the tokens, int (n, t), as they are; `image` is float (n, units)."""
        scores = self.scores(image)
        if training:
            loss = ops.mean(missed(scores, tokens)) * self.weight
            self.add_loss(loss - ops.stop_gradient(loss))
        return tokens

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"vocab_size": self.vocab_size, "weight": self.weight}


def missed(scores: Any, tokens: Any) -> Any:
    """Return the binary cross-entropy of all words of the vocabulary, per word of the caption.

    Args:
        scores: logits of each word's being there, float (n, vocab_size).
        tokens: the captions' words, int (n, t); special tokens do not count as words.

    Returns:
        Nats a word, float (n,).
    """
    words = ops.not_equal(tokens, PAD)
    for special in (START, END, UNKNOWN):
        words = ops.logical_and(words, ops.not_equal(tokens, special))
    words = ops.cast(words, scores.dtype)
    same = ops.cast(ops.equal(tokens[:, :, None], tokens[:, None]), scores.dtype)
    once = words / ops.sum(same, axis=-1)  # a word that comes twice is there once
    there = ops.sum(ops.take_along_axis(scores, tokens, axis=1) * once, axis=1)
    total = ops.sum(ops.softplus(scores), axis=1) - there
    return total / ops.maximum(ops.sum(words, axis=1), 1)
