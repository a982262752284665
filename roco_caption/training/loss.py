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

    def advance(k: Any, norms: Any, back: Any, summed: Any) -> tuple[Any, ...]:
        part = slice(k * size, (k + 1) * size)
        logits = tf.nn.bias_add(tf.matmul(rows[part], kernel), bias)
        top = tf.reduce_max(logits, axis=1, keepdims=True)
        powers = tf.exp(logits - top)
        total = tf.reduce_sum(powers, axis=1, keepdims=True)
        norms = norms.write(k, (top + tf.math.log(total))[:, 0])
        if trained:
            # a softmax is never written: its denominator divides what is multiplied by it
            share = weights[part, None] / total
            back = back.write(k, tf.matmul(powers, by_word) * share)
            summed += tf.matmul(powers, with_one[part] * share, transpose_a=True)
        return k + 1, norms, back, summed

    norms = tf.TensorArray(tf.float32, blocks, element_shape=[None], infer_shape=False)
    back = tf.TensorArray(tf.float32, blocks, element_shape=[None, units], infer_shape=False)
    start = (0, norms, back, tf.zeros([words, units + 1]))
    _, norms, back, summed = tf.while_loop(lambda k, *_: k < blocks, advance, start)
    of_targets = tf.gather(by_word, targets)
    logits = tf.reduce_sum(rows * of_targets, axis=1) + tf.gather(bias, targets)
    loss = tf.reduce_sum(weights * (norms.concat() - logits))
    if not trained:
        return (loss,)
    summed = tf.tensor_scatter_nd_sub(summed, targets[:, None], with_one * weights[:, None])
    back = back.concat() - of_targets * weights[:, None]
    return loss, back, tf.transpose(summed[:, :units]), summed[:, units]
