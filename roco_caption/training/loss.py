"""The loss of a batch of captions, without the logits of all its words at once.

With 12,109 words, about ROCO's size, the logits of 256 captions take 273 MB, and each pass over
them waits for memory. So the last layer, softmax, loss and gradients are computed for a block of
words at a time, which the processor's cache holds, and for words that count only; on GPUs the same
idea is known from Hsu et al. 2024, "Liger Kernel", and Wijmans et al. 2024, "Cut Your Losses".
"""

from typing import Any

import keras

from roco_caption.decoder.layers import on_tensorflow_cpu

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

ROWS, LOGITS = 256, 3_000_000  # of a block: at least so many words, or so many logits (12 MB)
LEAST = 1.2e-38  # probability of a word, so its loss is at most 87 nats; smaller ones become 0


def weighted_loss(hidden: Any, dense: Any, targets: Any, weights: Any, trained: bool) -> Any:
    """Return the sum of weights times cross-entropy, with TensorFlow.

    Args:
        hidden: float (n, t, units), the input of the last layer.
        dense: that layer, built: words from `hidden`.
        targets: int32 (n, t), the words that follow.
        weights: float32 (n, t); words of weight 0 are not computed.
        trained: whether gradients will be asked for.
    """
    kernel, bias = (tf.convert_to_tensor(weight.value) for weight in (dense.kernel, dense.bias))
    kept = tf.where(tf.reshape(weights, [-1]) > 0)[:, 0]
    rows = tf.gather(tf.reshape(hidden, [-1, kernel.shape[0]]), kept)
    targets, weights = (tf.gather(tf.reshape(a, [-1]), kept) for a in (targets, weights))
    if not trained:
        return _in_blocks(rows, kernel, bias, targets, weights, trained=False)[0]

    @tf.custom_gradient
    def run(rows: Any, kernel: Any, bias: Any) -> Any:
        loss, *gradients = _in_blocks(rows, kernel, bias, targets, weights, trained=True)
        return loss, lambda upstream: [upstream * gradient for gradient in gradients]

    return run(rows, kernel, bias)


def _in_blocks(
    rows: Any, kernel: Any, bias: Any, targets: Any, weights: Any, *, trained: bool
) -> tuple[Any, ...]:
    """Return the loss, and if `trained` the gradients of rows (r, units), kernel and bias."""
    count, (units, words) = tf.shape(rows)[0], kernel.shape
    size = max(ROWS, LOGITS // words) if on_tensorflow_cpu() else tf.maximum(count, 1)
    blocks = tf.maximum((count + size - 1) // size, 1)  # one even without rows
    by_word = tf.transpose(kernel)  # once: products by a transposed matrix are slow
    with_one = tf.concat([rows, tf.ones([count, 1])], axis=1)  # the bias' gradient comes with it

    def advance(k: Any, found: Any, back: Any, summed: Any) -> tuple[Any, ...]:
        part = slice(k * size, (k + 1) * size)
        # the softmax is one fused pass
        shares = tf.nn.softmax(tf.nn.bias_add(tf.matmul(rows[part], kernel), bias))
        found = found.write(k, tf.gather(shares, targets[part], batch_dims=1))
        if trained:
            weight = weights[part, None]
            back = back.write(k, tf.matmul(shares, by_word) * weight)
            summed += tf.matmul(shares, with_one[part] * weight, transpose_a=True)
        return k + 1, found, back, summed

    found = tf.TensorArray(tf.float32, blocks, element_shape=[None], infer_shape=False)
    back = tf.TensorArray(tf.float32, blocks, element_shape=[None, units], infer_shape=False)
    start = (0, found, back, tf.zeros([words, units + 1]))
    _, found, back, summed = tf.while_loop(lambda k, *_: k < blocks, advance, start)
    loss = -tf.reduce_sum(weights * tf.math.log(tf.maximum(found.concat(), LEAST)))
    if not trained:
        return (loss,)
    summed = tf.tensor_scatter_nd_sub(summed, targets[:, None], with_one * weights[:, None])
    back = back.concat() - tf.gather(by_word, targets) * weights[:, None]
    return loss, back, tf.transpose(summed[:, :units]), summed[:, units]
