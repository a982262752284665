"""The merge decoder `image_captioning`: its layers, its forward pass, and ensembles of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.decoder.concepts import (  # fmt: skip
    Concepts,
    fit_concepts,
    fit_rating_scaler,
    sampled_cases,
)
from roco_caption.decoder.layers import LSTM, GridCells, LastWord, WordAttention, open_gates, padded
from roco_caption.decoder.ratings import Ratings
from roco_caption.decoder.scaler import FeatureScaler, fit_scaler
from roco_caption.features.table import arrays_of, images_digest

IMAGE_BLOCK = 256  # images processed at once
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


class Decoder:
    """One set of layers in two views, and its step from word to word.

    In the merge architecture (Tanti, Gatt, Camilleri 2018, "Where to put the Image in an Image
    Caption Generator") the image never enters the LSTM, so the LSTM's state after a word is the
    same whether it read the words up to there or the whole caption. One pass over a caption
    therefore trains what one sample per prefix trains, at a fraction of the work.

    Attributes:
        next_word: `image_captioning`, the view of the README: `input_img` (n, d),
            `input_txt` (n, t) → probabilities of the next word (n, vocab_size).
        every_word: the training view: the same inputs → logits (n, t, vocab_size), row i for the
            word after `input_txt[:, : i + 1]`.
        every_hidden: the same from ratings, see `rate`, to the last layer's input (n, t, units).
        ratings: those of the training images that `fit_scalers` left out, or None.
        untrained: the variables that training changes as they were before the first one, or None.
        weights_file, seed: the checksum of the file with its weights, or ""; of the first ones.

    With attention each has a second input, `input_grid` (n, cells, channels).

    Args:
        parts, sizes: the layers by name; all arguments of `build_decoder`.
    """

    def __init__(self, parts: dict[str, layers.Layer], sizes: dict[str, Any]) -> None:
        self.parts, self.sizes = parts, sizes
        self.ratings: Ratings | None = None
        self.untrained: list[np.ndarray] | None = None
        self.weights_file = ""
        self.seed: int | None = None
        inputs = [keras.Input((sizes["feature_size"],), name="input_img")]
        if sizes["attention"]:
            inputs.append(keras.Input(sizes["grid_size"], name="input_grid"))
        image = self.describe(tuple(inputs))
        words = keras.Input((sizes["max_len"],), dtype="int32", name="input_txt")
        last = parts["drop_lstm"](parts["last_word"](self._read(words), words))
        hidden = self._merge(last, image)
        probabilities = parts["softmax"](parts["one_word"](parts["dense"](hidden)))
        self.next_word = keras.Model([*inputs, words], probabilities, name="image_captioning")
        words = keras.Input((None,), dtype="int32", name="input_txt")
        hidden = self._merge(parts["drop_lstm"](self._read(words)), image)
        self.every_word = keras.Model([*inputs, words], parts["dense"](hidden))
        rated = keras.Input((self.rated_size,), name="input_ratings")
        hidden = self._merge(parts["drop_lstm"](self._read(words)), self._seen(rated, inputs[1:]))
        self.every_hidden = keras.Model([rated, *inputs[1:], words], hidden)

    @property
    def members(self) -> list[Decoder]:
        """Itself, as the only member; see `Ensemble`."""
        return [self]

    @property
    def rates_cells(self) -> bool:
        """Whether its concepts tell which parts of the image support a word."""
        return "concepts_grid" in self.parts

    @property
    def rated_size(self) -> int:
        """Numbers per image that `rate` returns."""
        return self.sizes["components"] + (self.sizes["concepts"] if self.rates_cells else 0)

    def rate(self, features: Any) -> Any:
        """Return what the constant layers make of images: ratings of words, float32 (n, k)."""
        parts, (described, *grids) = self.parts, arrays_of(features)
        rated = parts["scaler"](described)
        if not self.rates_cells:
            return rated
        of_cells = parts["concepts_grid"](parts["flat"](parts["scaler_grid"](*grids)))
        return parts["both_ratings"]((rated, of_cells))

    def describe(self, features: Any) -> tuple[Any, ...]:
        """Encode images, float (n, d) or with attention a pair of that and the grids.

        Returns what is added to the LSTM's outputs, (n, units), and with attention the cells,
        (n, cells, units).
        """
        return self._seen(self.rate(features), arrays_of(features)[1:])

    def _seen(self, rated: Any, grids: Sequence[Any]) -> tuple[Any, ...]:
        parts = self.parts
        vector = parts["image"](parts["drop_image"](rated))
        if not grids:
            return (vector,)
        cells = parts["drop_grid"](parts["scaler_grid"](*grids))
        return parts["drop_pooled"](vector), parts["cells"](cells)

    def vector(self, features: Any) -> Any:
        """Return what is added to the LSTM's outputs for each image, float32 (n, units)."""
        return self.describe(features)[0]

    def _read(self, words: Any) -> Any:
        return self.parts["lstm"](self.parts["drop_words"](self.parts["embedding"](words)))

    def _merge(self, outputs: Any, image: tuple[Any, ...]) -> Any:
        # the LSTM's outputs (n, t, units) and `describe`'s arrays → (n, t, units)
        parts, (vector, *cells) = self.parts, image
        merged = parts["merge"]([outputs, parts["per_word"](vector)])
        if cells:
            merged = parts["merge_attended"]([merged, parts["attention"](merged, *cells)])
        return parts["hidden"](merged)

    def start(self, features: Any) -> tuple[Step, Any, Any]:
        """Return the step from word to word, and what a search starts from.

        The step is `(tokens int (m, k), state, image) → (logits (m, k, words), state)`, for `k`
        captions of each of `m` images; words are `padded`. It starts from the LSTM's state, h and
        c, each (n, units), which the step takes as (m, k, units), and from `describe`'s arrays.
        """
        image, cell = self.describe(features), self.parts["lstm"].cell
        # the gates' input is one word and nothing else, so its projection is looked up
        projected = ops.matmul(self.parts["embedding"].embeddings, cell.kernel) + cell.bias
        dense = padded(self.parts["dense"])

        def step(tokens: Any, state: Any, image: Any) -> tuple[Any, Any]:
            h, c = state
            gates = ops.take(projected, tokens, axis=0) + ops.matmul(h, cell.recurrent_kernel)
            h, c, _ = open_gates(ops.split(gates, 4, axis=-1), c)
            return dense(self._merge(h, image)), (h, c)

        rest = ops.zeros_like(image[0])
        return step, (rest, rest), image


def build_decoder(
    *,
    vocab_size: int,
    max_len: int,
    feature_size: int = 4096,
    components: int = 512,
    embedding_size: int = 256,
    units: int = 256,
    dropout: float = 0.5,
    image_dropout: float = 0.1,
    attention: bool = False,
    grid_size: Sequence[int] = (49, 512),
    grid_components: int = 128,
    concepts: int = 512,
    pooled_dropout: float = 0.2,
) -> Decoder:
    """Build the decoder.

    Args:
        vocab_size: tokens, the special ones included.
        max_len: columns of `input_txt`: the start token and the words.
        feature_size: length d of an image's features.
        components: words and pairs rated from the features, see `fit_rating_scaler`.
        grid_components: principal components kept of the grid's channels.
        embedding_size, units: of a word's embedding; of the LSTM and the image's vector.
        dropout: of the embeddings and of the LSTM's output.
        image_dropout: of the image's ratings, which are hardly redundant.
        attention: whether to attend to the image's grid at every word.
        grid_size: cells of an image's grid, and channels of each.
        concepts: with attention, how many are rated from the whole grid as well, see
            `Concepts`; 0 for none.
        pooled_dropout: with attention, share of the images whose vector is dropped in training, or
            the attention would not be trained.

    Returns:
        The `Decoder`. Padding is 0 and only on the right; the LSTM gets no mask, so that cuDNN's
        LSTM is used on NVIDIA cards.
    """
    grid_size = tuple(grid_size)
    sizes = dict(locals())
    parts: dict[str, layers.Layer] = {}

    def add(layer: layers.Layer, *shape: int) -> None:
        parts[layer.name] = layer
        if shape:
            layer.build((None, *shape))

    add(FeatureScaler(components, name="scaler"), feature_size)
    if attention:
        add(FeatureScaler(grid_components, name="scaler_grid"), *grid_size)
        if concepts:
            # all cells at once, each with weights of its own: so sides and sizes can be told
            add(layers.Flatten(name="flat"))
            add(Concepts(concepts, name="concepts_grid"), grid_size[0] * grid_components)
            add(layers.Concatenate(name="both_ratings"))
    add(layers.Dense(units, name="image"))
    add(layers.Dropout(image_dropout, name="drop_image"))
    add(layers.Embedding(vocab_size, embedding_size, name="embedding"))
    add(LSTM(units, name="lstm"))
    add(layers.Dropout(dropout, name="drop_words"))
    add(layers.Dropout(dropout, name="drop_lstm"))
    add(LastWord(name="last_word"))
    add(layers.Reshape((1, units), name="per_word"))
    add(layers.Add(name="merge"))
    # what a side or a size looks like depends on the finding, which a sum alone cannot express
    add(layers.Dense(units, activation="tanh", name="hidden"))
    add(layers.Dense(vocab_size, name="dense"))
    add(layers.Reshape((vocab_size,), name="one_word"))
    add(layers.Softmax(name="softmax"))
    if attention:
        add(WordAttention(units, name="attention"))
        add(layers.Dropout(pooled_dropout, noise_shape=(None, 1), name="drop_pooled"))
        add(layers.Dropout(image_dropout, name="drop_grid"))
        add(GridCells(units, name="cells"))
        add(layers.Add(name="merge_attended"))
    return Decoder(parts, sizes)


class Ensemble:
    """Decoders of one vocabulary, trained from different seeds, used in place of one `Decoder`.

    Before each word their probabilities are averaged, which is better than each, as their errors
    differ (Hansen and Salamon 1990, "Neural Network Ensembles"). All attend or none does.
    """

    def __init__(self, members: Sequence[Decoder]) -> None:
        self.members = list(members)

    @property
    def rates_cells(self) -> bool:
        """As `Decoder.rates_cells`."""
        return self.members[0].rates_cells

    def vector(self, features: Any) -> Any:
        """Return the members' vectors side by side, float32 (n, members * units)."""
        return ops.concatenate([member.vector(features) for member in self.members], axis=1)

    def start(self, features: Any) -> tuple[Step, Any, Any]:
        """Return the members' joint step and what it starts from; see `Decoder.start`."""
        starts = [member.start(features) for member in self.members]
        steps, states, images = zip(*starts, strict=True)

        def step(tokens: Any, state: Any, image: Any) -> tuple[Any, Any]:
            results = [
                step(tokens, *parts) for step, *parts in zip(steps, state, image, strict=True)
            ]
            log_ps = ops.stack([ops.log_softmax(logits, axis=-1) for logits, _ in results])
            mean = ops.logsumexp(log_ps, axis=0) - math.log(len(steps))
            return mean, tuple(state for _, state in results)

        return step, states, images


def combine(members: Sequence[Decoder]) -> Decoder | Ensemble:
    """Return the one decoder, or the `Ensemble` of several."""
    return members[0] if len(members) == 1 else Ensemble(members)


def fit_scalers(
    decoder: Decoder | Ensemble,
    features: Any,
    tokens: np.ndarray,
    cases: Sequence[Any] | None = None,
) -> None:
    """Fit the constant layers to the training images, and set `Decoder.ratings`.

    Features are float (n, d), with attention a pair of them and the grids; `tokens` are the
    captions, int32 (n, t); `cases` the patient or article of each image, see `cases_of`.
    """
    parts, arrays = decoder.members[0].parts, arrays_of(features)
    rows, source = sampled_cases(len(tokens), cases), images_digest(features, cases)
    known = tokens[rows], None if cases is None else np.asarray(cases)[rows]
    scaler, concepts = parts["scaler"], parts.get("concepts_grid")
    weights, ratings = fit_rating_scaler(arrays[0][rows], known[0], scaler.components, known[1])
    fitted: dict[str, Sequence[np.ndarray]] = {"scaler": weights}
    for grids in arrays[1:]:
        scaler = parts["scaler_grid"]
        fitted["scaler_grid"] = fit_scaler(grids, scaler.components)
        scaler.set_weights(fitted["scaler_grid"])
        if concepts is not None:
            blocks = [rows[i : i + IMAGE_BLOCK] for i in range(0, len(rows), IMAGE_BLOCK)]
            scaled = np.concatenate([scaler(grids[block].astype(np.float32)) for block in blocks])
            offset, slopes, of_cells = fit_concepts(scaled, known[0], concepts.count, known[1])
            fitted["concepts_grid"] = offset, slopes, of_cells.words
            ratings = ratings.beside(of_cells)
    for member in decoder.members:
        member.ratings = replace(ratings, rows=rows, source=source)
        for name, arrays_of_layer in fitted.items():
            member.parts[name].set_weights(arrays_of_layer)
