"""The merge decoder `image_captioning`: one set of weights, seen word by word or whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.attention import GridCells, WordAttention
from roco_caption.batches import arrays_of
from roco_caption.concepts import SAMPLE, Concepts, fit_concepts
from roco_caption.feature_table import sampled
from roco_caption.mentions import Mentions
from roco_caption.recurrent import LSTM, open_gates
from roco_caption.scaling import FeatureScaler, fit_scaler
from roco_caption.text import PAD

BLOCK = 256  # images scaled at once
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def fit_scalers(
    members: Sequence[Captioning],
    features: Any,
    tokens: np.ndarray,
    cases: Sequence[Any] | None = None,
) -> None:
    """Fit the scalers of decoders, and with attention their concepts, to the training images.

    Args:
        members: of `build_captioning` with the same sizes: one decoder, or an ensemble's.
        features: float (n, d); with attention a pair of them and the grids.
        tokens: their captions, int32 (n, t).
        cases: with attention, the patient or article of each image, see `dataset.cases_of`.
    """

    def fitted(name: str, weights: Sequence[np.ndarray]) -> None:
        for member in members:
            member.next_word.get_layer(name).set_weights(weights)

    present = {layer.name: layer for layer in members[0].next_word.layers}
    rows = np.arange(len(tokens))[sampled(len(tokens), SAMPLE)]
    for kind, array in zip(("", "_grid"), arrays_of(features), strict=False):
        scaler = present[f"scaler{kind}"]
        fitted(scaler.name, fit_scaler(array, scaler.components))
        if concepts := present.get(f"concepts{kind}"):
            blocks = [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
            scaled = np.concatenate([scaler(array[block].astype(np.float32)) for block in blocks])
            of_rows = None if cases is None else np.asarray(cases)[rows]
            fitted(concepts.name, fit_concepts(scaled, tokens[rows], concepts.count, of_rows))


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

    With attention each has a further input after the first, `input_grid` (n, cells, channels).
    """

    next_word: keras.Model
    every_word: keras.Model

    @property
    def attends(self) -> bool:
        """Whether it looks at the image's parts."""
        return len(self.next_word.inputs) == 3

    @property
    def rates_cells(self) -> bool:
        """Whether its concepts tell which of the image's parts speak for a word."""
        return "concepts_grid" in {layer.name for layer in self.next_word.layers}

    def vector(self, features: Any) -> Any:
        """Return what is added of each image to the LSTM's output, float32 (n, units).

        Args:
            features: float (n, d); with attention a pair of them and the grid.
        """
        return self._vector(*self._scaled(features))

    def _scaled(self, features: Any) -> list[Any]:
        """Return the image's scaled features, with attention its scaled cells too."""
        names = ("scaler", "scaler_grid")
        arrays = zip(names, arrays_of(features), strict=False)
        return [self.next_word.get_layer(name)(array) for name, array in arrays]

    def _vector(self, described: Any, *cells: Any) -> Any:
        layer = self.next_word.get_layer
        if self.rates_cells:
            rated = layer("concepts")(described), layer("concepts_grid")(layer("laid_out")(*cells))
            described = ops.concatenate(rated, axis=-1)
        return layer("image")(described)

    def start(self, features: Any, *, blank: bool = False) -> tuple[Step, Any, Any]:
        """Return the decoder's step from word to word, and what it starts from.

        Args:
            features: float (n, d); with attention a pair of them and the grid.
            blank: whether the images are to show what is usual everywhere.

        Returns:
            The step, `(tokens int (m, k), state, image) → (logits (m, k, vocab_size), state)`,
            for `k` captions of each of `m` images; the state of the LSTM at rest, h and c, each
            (n, units), which the step has as (m, k, units); and the image's vector (n, units),
            with attention its cells (n, cells, units) too, which the step has for its `m` images.
        """
        layer = self.next_word.get_layer
        described, *scaled = self._scaled(features)
        if blank:
            described, *scaled = (ops.zeros_like(part) for part in (described, *scaled))
        image = self._vector(described, *scaled)
        cells = [layer("cells")(cells) for cells in scaled]
        cell = layer("lstm").cell
        # the gates' input is a word and nothing else, so that its product is looked up
        entering = ops.matmul(layer("embedding").embeddings, cell.kernel) + cell.bias

        def step(tokens: Any, state: Any, image: Any) -> tuple[Any, Any]:
            h, c = state
            gates = ops.take(entering, tokens, axis=0) + ops.matmul(h, cell.recurrent_kernel)
            h, c, _ = open_gates(gates, c)
            whole, *cells = image
            merged = h + whole[:, None]
            if cells:
                merged = merged + layer("attention")(merged, *cells)
            return layer("dense")(layer("hidden")(merged)), (h, c)

        rest = ops.zeros_like(image)
        return step, (rest, rest), (image, *cells)


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
    attention: bool = False,
    grid_size: Sequence[int] = (49, 512),
    grid_components: int = 128,
    concepts: int = 512,
    pooled_dropout: float = 0.2,
    mentions: float = 0.0,
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
        attention: whether the decoder also looks at the image's parts, anew for each word.
        grid_size: cells, and channels of each, of an image's grid.
        grid_components: what is kept of the channels.
        concepts: with attention, words that the features and as many that the whole grid rate
            for the image's vector, see `Concepts`; 0 makes it of the features' components.
        pooled_dropout: with attention, share of the images whose vector is left out in training.
        mentions: weight of a second loss in training: see `Mentions`; 0 does without.

    Returns:
        The `Captioning`; its two views share all layers. Padding is 0 and only on the right; the
        LSTM gets no mask, so that cuDNN's fast one serves on NVIDIA cards.
    """
    input_img = keras.Input((feature_size,), name="input_img")
    input_txt = keras.Input((max_len,), dtype="int32", name="input_txt")
    described = FeatureScaler(components, name="scaler")(input_img)
    images = [input_img]
    if attention:
        input_grid = keras.Input(tuple(grid_size), name="input_grid")
        images.append(input_grid)
        scaled = FeatureScaler(grid_components, name="scaler_grid")(input_grid)
        if concepts:
            # all cells at once, each with slopes of its own: so sides and sizes can be told
            rated = Concepts(concepts, name="concepts_grid")(
                layers.Flatten(name="laid_out")(scaled)
            )
            described = Concepts(concepts, name="concepts")(described)
            described = layers.Concatenate(name="both_concepts")([described, rated])
    image = pooled = layers.Dense(units, name="image")(
        layers.Dropout(image_dropout, name="drop_image")(described)
    )
    embedding = layers.Embedding(vocab_size, embedding_size, name="embedding")
    lstm = LSTM(units, name="lstm")
    drop_words, drop_lstm = (layers.Dropout(dropout, name=f"drop_{n}") for n in ("words", "lstm"))
    # what a side or a size looks like depends on the finding: a sum alone could not say that
    hidden = layers.Dense(units, activation="tanh", name="hidden")
    dense = layers.Dense(vocab_size, name="dense")
    if attention:
        look = WordAttention(units, name="attention")
        # the whole vector of some images, or nobody would learn to look
        image = layers.Dropout(pooled_dropout, noise_shape=(None, 1), name="drop_pooled")(image)
        cells = layers.Dropout(image_dropout, name="drop_grid")(scaled)
        cells = GridCells(units, name="cells")(cells)

    # word by word, as in the README's table
    spoken = LastWord(name="last_word")(lstm(drop_words(embedding(input_txt))), input_txt)
    merged = layers.Add(name="merge")([drop_lstm(spoken), image])
    if attention:
        merged = layers.Add(name="merge_seen")([merged, look(merged, cells)])
    probabilities = layers.Softmax(name="softmax")(dense(hidden(merged)))
    next_word = keras.Model([*images, input_txt], probabilities, name="image_captioning")

    # whole captions of any length, as trained
    words = keras.Input((None,), dtype="int32", name="input_txt")
    everywhere = layers.Reshape((1, units), name="to_every_word")(image)
    said = Mentions(vocab_size, mentions, name="mentions")(words, pooled) if mentions else words
    merged = layers.Add(name="merge_every")(
        [drop_lstm(lstm(drop_words(embedding(said)))), everywhere]
    )
    if attention:
        merged = layers.Add(name="merge_every_seen")([merged, look(merged, cells)])
    every_word = keras.Model(
        [*images, words], dense(hidden(merged)), name="image_captioning_training"
    )
    return Captioning(next_word, every_word)
