"""The decoder's own layers: last word, grid cells, attention to them, an LSTM fast on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.text.tokenizer import PAD

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

Shape = tuple[int | None, ...]
WORD_BLOCK = 64  # words that a search compares at once


def filled(layer: layers.Layer, shape: Shape, *weights: np.ndarray) -> layers.Layer:
    """Return a layer built for inputs of `shape`, with these weights."""
    layer.build(shape)
    layer.set_weights(weights)
    return layer


def cell_dense(name: str, cells: int, kernel: np.ndarray, bias: np.ndarray) -> layers.Layer:
    """Return a plain dense layer for cells (n, cells, d), whose bias (cells, k) differs by cell."""
    layer = layers.EinsumDense("ncd,dk->nck", (cells, kernel.shape[1]), bias_axes="ck", name=name)
    return filled(layer, (None, cells, len(kernel)), kernel, bias)


def padded(dense: layers.Dense) -> Callable[[Any], Any]:
    """Return a dense layer, float (m, k, d) → (m, k, words), whose words `WORD_BLOCK` divides.

    The units added give -1e9. A search can reshape this output, else it would copy it at each word.
    """
    missing = -dense.units % WORD_BLOCK
    kernel = ops.pad(dense.kernel, [[0, 0], [0, missing]])
    bias = ops.pad(dense.bias, [[0, missing]], constant_values=-1e9)
    # on CPUs, TensorFlow computes a matrix product and this in one pass
    add = tf.nn.bias_add if keras.backend.backend() == "tensorflow" else ops.add

    def call(x: Any) -> Any:
        (m, k), d = ops.shape(x)[:2], kernel.shape[0]
        words = add(ops.matmul(ops.reshape(x, (m * k, d)), kernel), bias)
        return ops.reshape(words, (m, k, kernel.shape[1]))

    return call


class LastWord(layers.Layer):
    """Selects the LSTM's output at each caption's last word; the padding after it is not read."""

    def call(self, outputs: Any, tokens: Any) -> Any:
        """Map float (n, t, units) and int (n, t) to float (n, 1, units)."""
        return _last_word(outputs, tokens)

    def plain(self) -> keras.Model:
        """Return the same as a model of Keras' own operations."""
        outputs, tokens = keras.Input((None, None)), keras.Input((None,), dtype="int32")
        return keras.Model([outputs, tokens], _last_word(outputs, tokens), name=self.name)


def _last_word(outputs: Any, tokens: Any) -> Any:
    last = ops.sum(ops.cast(ops.not_equal(tokens, PAD), "int32"), axis=1, keepdims=True) - 1
    return ops.take_along_axis(outputs, ops.expand_dims(ops.maximum(last, 0), -1), axis=1)


class GridCells(layers.Layer):
    """Gives each grid cell a vector that encodes what is there and where it is.

    Convolutions do not encode absolute position, and captions are about sides: so one vector is
    learned per position and added. `units` is the vectors' length.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.what = layers.Dense(units, name="what")

    def build(self, input_shape: Shape) -> None:
        self.what.build(input_shape)
        self.where = self.add_weight(
            shape=(input_shape[-2], self.units),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
            name="where",
        )

    def call(self, grid: Any) -> Any:
        """Map float (n, cells, channels) to float (n, cells, units)."""
        # linear on purpose: with a tanh the position could be read without attending to the cell
        return self.what(grid) + self.where

    def plain(self) -> layers.Layer:
        """Return the same as one of Keras' own layers."""
        kernel, bias = self.what.get_weights()
        where = np.asarray(self.where)
        return cell_dense(self.name, len(where), kernel, bias + where)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


class WordAttention(layers.Layer):
    """Attends to the cells that fit the words so far and the image as a whole.

    Luong's "general" attention (Luong, Pham, Manning 2015, "Effective Approaches to
    Attention-based Neural Machine Translation"), scaled (Vaswani et al. 2017, "Attention Is All
    You Need"). Its query is the LSTM's output, as in Xu et al. 2015, "Show, Attend and Tell", plus
    the image's vector. Unlike there, the result, of `units` numbers, does not enter the LSTM, so a
    caption's words can still be trained in one pass.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.result = layers.Dense(units, name="result")

    def build(self, words_shape: Shape, cells_shape: Shape) -> None:
        size = cells_shape[-1]
        self.query = layers.Dense(size, name="query")
        self.query.build(words_shape)
        self.result.build((None, size))

    def call(self, words: Any, cells: Any) -> Any:
        """Map merged outputs (n, t, units) and cells (n, cells, size) to float (n, t, units)."""
        query = self.query(words) / cells.shape[-1] ** 0.5
        scores = ops.einsum("ntu,ncu->ntc", query, cells)
        return self.result(ops.matmul(ops.softmax(scores, axis=-1), cells))

    def plain(self) -> keras.Model:
        """Return the same as a model of Keras' own layers."""
        (kernel, bias), result = self.query.get_weights(), self.result.get_weights()
        units, size = kernel.shape
        words, cells = keras.Input((None, units)), keras.Input((None, size))
        query = layers.Dense(size, name="query")
        query = filled(query, (None, units), kernel / size**0.5, bias / size**0.5)
        dense = filled(layers.Dense(self.units, name="result"), (None, size), *result)
        seen = layers.Attention(name="attend")([query(words), cells])
        return keras.Model([words, cells], dense(seen), name=self.name)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


class LSTM(layers.LSTM):
    """Keras' LSTM with its default options, returning the output after every word.

    Weights and results equal those of `keras.layers.LSTM`. On an accelerator, or with another
    backend than TensorFlow, it is that layer (cuDNN's on an NVIDIA card). On a CPU a gate's input
    projections of all words are one matrix product, and so are its weights' gradients; Keras' own
    loop computes them word by word, and multiplies by a transposed matrix, which is slow.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(units, **options | {"return_sequences": True})

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        """Map float (n, t, d) to float (n, t, units)."""
        if not on_tensorflow_cpu() or initial_state is not None or mask is not None:
            return super().call(sequences, initial_state, mask, training)
        weights = self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias
        outputs = _lstm(sequences, *(tf.convert_to_tensor(weight.value) for weight in weights))
        return tf.ensure_shape(outputs, [*sequences.shape[:2], self.units])

    def plain(self) -> layers.Layer:
        """Return the same as Keras' own layer."""
        layer = layers.LSTM(self.units, return_sequences=True, name=self.name)
        return filled(layer, (None, None, self.cell.kernel.shape[0]), *self.get_weights())


def open_gates(gates: Sequence[Any], c: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Advance an LSTM by one word: return its output and cell state, like `c`, and the four gates.

    `gates` are pre-activations: input, forget, candidate, output; they and `c`, the cell state, are
    float (..., units).
    """
    i, f, g, o = gates
    i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
    c = f * c + i * g
    return o * ops.tanh(c), c, (i, f, g, o)


def on_tensorflow_cpu() -> bool:
    """Return whether the backend is TensorFlow and there is no GPU."""
    return keras.backend.backend() == "tensorflow" and not tf.config.list_logical_devices("GPU")


def _lstm(x: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
    """Return outputs (n, t, units) for inputs (n, t, d), starting from a zero state.

    Each gate has a matrix product of its own. Joined, the products would take no longer, but
    splitting and joining their columns at every word would.
    """

    @tf.custom_gradient
    def run(x: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
        kernels, recurrent = tf.split(kernel, 4, axis=1), tf.split(recurrent_kernel, 4, axis=1)
        inputs = tf.transpose(x, [1, 0, 2])  # words first, as both loops go through them
        residuals = _lstm_forward(inputs, kernels, recurrent, tf.split(bias, 4))

        def gradient(upstream: Any) -> tuple[Any, ...]:
            upstream = tf.transpose(upstream, [1, 0, 2])
            dx, *weights = _lstm_backward(upstream, inputs, kernels, recurrent, residuals)
            return tf.transpose(dx, [1, 0, 2]), *weights

        return tf.transpose(residuals[1], [1, 0, 2]), gradient

    return run(x, kernel, recurrent_kernel, bias)


def _lstm_forward(x: Any, kernels: Any, recurrent: Any, biases: Any) -> tuple[Any, Any, list[Any]]:
    """Return, per word, the cell state before it, the output, and the gates: (t, n, units) each."""
    (t, n, d), units = tf.unstack(tf.shape(x)), recurrent[0].shape[0]
    rows, rest = tf.reshape(x, [-1, d]), tf.zeros([n, units], x.dtype)
    projected = [
        _per_word(t, units, tf.reshape(tf.matmul(rows, kernel) + bias, [t, n, units]))
        for kernel, bias in zip(kernels, biases, strict=True)
    ]

    def advance(k: Any, h: Any, c: Any, cells: Any, outputs: Any, gates: Any) -> tuple[Any, ...]:
        closed = [p.read(k) + tf.matmul(h, r) for p, r in zip(projected, recurrent, strict=True)]
        cells = cells.write(k, c)
        h, c, opened = open_gates(closed, c)
        gates = [gate.write(k, value) for gate, value in zip(gates, opened, strict=True)]
        return k + 1, h, c, cells, outputs.write(k, h), gates

    cells, outputs, *gates = (_per_word(t, units) for _ in range(6))
    start = (0, rest, rest, cells, outputs, gates)
    _, _, _, cells, outputs, gates = tf.while_loop(lambda k, *_: k < t, advance, start)
    return cells.stack(), outputs.stack(), [gate.stack() for gate in gates]


def _lstm_backward(
    upstream: Any, x: Any, kernels: Any, recurrent: Any, residuals: tuple[Any, Any, list[Any]]
) -> tuple[Any, ...]:
    """Return the gradients of the inputs (t, n, d), both kernels and the bias."""
    cells, outputs, (i, f, g, o) = residuals
    (t, n, d), units = tf.unstack(tf.shape(x)), recurrent[0].shape[0]
    # what the loop multiplies by is known before it, for all words at once
    squashed = tf.tanh(f * cells + i * g)
    of_gates = g * i * (1 - i), cells * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)
    slopes, arriving = [_per_word(t, units, of) for of in of_gates], _per_word(t, units, upstream)
    leaks, forgets = _per_word(t, units, o * (1 - squashed * squashed)), _per_word(t, units, f)
    back = [tf.transpose(kernel) for kernel in recurrent]  # once, not at every word

    def retreat(k: Any, dh: Any, dc: Any, gradients: Any) -> tuple[Any, ...]:
        dh += arriving.read(k)
        dc += dh * leaks.read(k)
        into = [d * s.read(k) for d, s in zip((dc, dc, dc, dh), slopes, strict=True)]
        gradients = [rows.write(k, gate) for rows, gate in zip(gradients, into, strict=True)]
        return k - 1, _summed(into, back), dc * forgets.read(k), gradients

    rest = tf.zeros([n, units], x.dtype)
    start = (t - 1, rest, rest, [_per_word(t, units) for _ in range(4)])
    *_, gradients = tf.while_loop(lambda k, *_: k >= 0, retreat, start)
    into = [tf.reshape(rows.stack(), [-1, units]) for rows in gradients]
    previous = tf.reshape(tf.concat([rest[None], outputs[:-1]], axis=0), [-1, units])
    rows = tf.reshape(x, [-1, d])
    return (
        tf.reshape(_summed(into, [tf.transpose(kernel) for kernel in kernels]), [t, n, d]),
        tf.concat([tf.matmul(rows, gate, transpose_a=True) for gate in into], axis=1),
        tf.concat([tf.matmul(previous, gate, transpose_a=True) for gate in into], axis=1),
        tf.concat([tf.reduce_sum(gate, axis=0) for gate in into], axis=0),
    )


def _summed(rows: Sequence[Any], kernels: Sequence[Any]) -> Any:
    """Return the sum of the gates' matrix products."""
    return tf.add_n([tf.matmul(a, b) for a, b in zip(rows, kernels, strict=True)])


def _per_word(count: Any, columns: int, rows: Any = None) -> Any:
    """Return a TensorArray of `count` float (n, columns), filled with `rows` if given."""
    array = tf.TensorArray(tf.float32, count, element_shape=(None, columns))
    return array if rows is None else array.unstack(rows)
