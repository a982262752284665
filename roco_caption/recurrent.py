"""The LSTM as Keras has it, its training pass on a CPU written for few, large matrix products."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable("roco_caption")
class LSTM(layers.LSTM):
    """Keras' LSTM with its default options, returning the output after every word.

    Weights and results are those of `keras.layers.LSTM`. On an accelerator, or with another
    backend than TensorFlow, it is that layer (and so cuDNN's on an NVIDIA card). On a CPU the
    input's products of all words are one, and so are the weights' gradients; Keras' own loop
    computes them word by word, and multiplies by a transposed matrix in a slow way.

    Args:
        units: length of the output.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(units, **options | {"return_sequences": True})

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        """Map float (n, t, d) to float (n, t, units)."""
        if not _on_tensorflow_cpu() or initial_state is not None or mask is not None:
            return super().call(sequences, initial_state, mask, training)
        weights = self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias
        return _from_rest(sequences, *(tf.convert_to_tensor(weight.value) for weight in weights))


def open_gates(gates: Any, c: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Advance by a word.

    Args:
        gates: what enters the gates, float (..., 4 * units), in Keras' order: input, forget,
            candidate, output.
        c: the cells' state, float (..., units).

    Returns:
        The output and the new state, each like `c`, and the four gates.
    """
    i, f, g, o = ops.split(gates, 4, axis=-1)
    i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
    c = f * c + i * g
    return o * ops.tanh(c), c, (i, f, g, o)


def _on_tensorflow_cpu() -> bool:
    return keras.backend.backend() == "tensorflow" and not tf.config.list_logical_devices("GPU")


def _from_rest(x: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
    """Outputs (n, t, units) for inputs (n, t, d), the state before the first being zero.

    In both loops the axis of words comes first.
    """
    units = recurrent_kernel.shape[0]
    columns = {"c": units, "h": units, "gates": 4 * units}

    @tf.custom_gradient
    def run(x: Any, kernel: Any, recurrent_kernel: Any, bias: Any) -> Any:
        n, t, d = tf.unstack(tf.shape(x))
        rest = tf.zeros([n, units], x.dtype)

        def words(rows: Any, name: str) -> tf.TensorArray:
            array = tf.TensorArray(x.dtype, t, element_shape=(None, columns[name]))
            return array if rows is None else array.unstack(rows)

        flat = tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, d])
        projected = tf.reshape(tf.matmul(flat, kernel) + bias, [t, n, 4 * units])
        projected = words(projected, "gates")

        def forward(k: Any, h: Any, c: Any, kept: dict[str, Any]) -> tuple[Any, ...]:
            before = c
            h, c, gates = open_gates(projected.read(k) + tf.matmul(h, recurrent_kernel), c)
            rows = {"c": before, "h": h, "gates": tf.concat(gates, axis=1)}
            return k + 1, h, c, {name: kept[name].write(k, rows[name]) for name in kept}

        kept = {name: words(None, name) for name in columns}
        *_, kept = tf.while_loop(lambda k, *_: k < t, forward, (0, rest, rest, kept))
        before, outputs, gates = (kept[name].stack() for name in columns)

        def gradient(upstream: Any) -> tuple[Any, ...]:
            # what the loop multiplies by is known before it, for all words at once
            i, f, g, o = tf.split(gates, 4, axis=2)
            squashed = tf.tanh(f * before + i * g)
            inward = tf.concat(
                [g * i * (1 - i), before * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], 2
            )
            slopes, forgotten = words(o * (1 - squashed * squashed), "c"), words(f, "c")
            arriving, inward = words(tf.transpose(upstream, [1, 0, 2]), "h"), words(inward, "gates")
            back = tf.transpose(recurrent_kernel)  # once, not at every word

            def backward(k: Any, dh: Any, dc: Any, kept: Any) -> tuple[Any, ...]:
                dh += arriving.read(k)
                dc += dh * slopes.read(k)
                into = tf.concat([dc, dc, dc, dh], axis=1) * inward.read(k)
                return k - 1, tf.matmul(into, back), dc * forgotten.read(k), kept.write(k, into)

            start = (t - 1, rest, rest, words(None, "gates"))
            *_, kept = tf.while_loop(lambda k, *_: k >= 0, backward, start)
            into = tf.reshape(kept.stack(), [-1, 4 * units])
            previous = tf.reshape(tf.concat([rest[None], outputs[:-1]], axis=0), [-1, units])
            dx = tf.reshape(tf.matmul(into, tf.transpose(kernel)), [t, n, d])
            return (
                tf.transpose(dx, [1, 0, 2]),
                tf.matmul(flat, into, transpose_a=True),
                tf.matmul(previous, into, transpose_a=True),
                tf.reduce_sum(into, axis=0),
            )

        return tf.transpose(outputs, [1, 0, 2]), gradient

    outputs = run(x, kernel, recurrent_kernel, bias)
    return tf.ensure_shape(outputs, [*x.shape[:2], units])
