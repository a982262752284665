"""Greedy search for a whole batch at once, and what beam search shares with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from roco_caption.model import Step
from roco_caption.text import END, PAD, START, UNKNOWN

IMPOSSIBLE = -1e9
NARROWS = keras.backend.backend() == "tensorflow"  # elsewhere shapes may not change in a loop


class _Greedy(NamedTuple):
    """What greedy search carries from word to word, for the `m` of `n` captions still going."""

    length: Any  # words so far, int32 ()
    words: Any  # of all captions, int32 (n, max_words)
    log_p: Any  # of all captions, float32 (n,)
    rows: Any  # which captions go on, int32 (m,)
    last: Any  # their latest word, int32 (m,)
    state: Any  # the step function's, (m, 1, ...)
    image: Any  # (m, ...)


def greedy_search(step: Step, state: Any, image: Any, *, n: Any, max_words: int) -> tuple[Any, Any]:
    """Take the most probable word at every step.

    Args:
        step: `(tokens int (m, 1), state, image) → (logits (m, 1, vocab_size), state)`.
        state: a nest of arrays (rows, ...), before the first word; to the step they are
            (m, 1, ...).
        image: a nest of arrays (rows, ...), which the step is given as they are.
        n: captions wanted, an int or an array (): those of the first rows.
        max_words: words after which a caption ends at the latest.

    Returns:
        Tokens int32 (rows, max_words), end and padding included, and each caption's
        log-probability float32 (rows,).
    """

    def more(g: _Greedy) -> Any:
        return ops.logical_and(g.length < max_words, ops.any(_unfinished(g.last)))

    def advance(g: _Greedy) -> tuple[_Greedy]:
        logits, state = step(g.last[:, None], g.state, g.image)
        log_p = log_probabilities(logits[:, 0])
        best = ops.cast(ops.argmax(log_p, axis=-1), "int32")
        gain = ops.max(log_p, axis=-1)
        going = _unfinished(g.last)
        best, gain = ops.where(going, best, PAD), ops.where(going, gain, 0.0)
        column = ops.scatter(g.rows[:, None], best, (rows,))
        words = ops.slice_update(g.words, (ops.zeros_like(g.length), g.length), column[:, None])
        log_p = g.log_p + ops.scatter(g.rows[:, None], gain, (rows,))
        left = narrowed(_unfinished(best), (g.rows, best, state, g.image))
        return (_Greedy(g.length + 1, words, log_p, *left),)

    rows = row_count(image)
    state = keras.tree.map_structure(lambda array: array[:, None], state)
    every = ops.arange(rows, dtype="int32")
    last = ops.where(every < n, START, PAD)
    zero, words = ops.convert_to_tensor(0, "int32"), ops.zeros((rows, max_words), "int32")
    left = narrowed(every < n, (every, last, state, image), at=1.0)
    begin = _Greedy(zero, words, ops.zeros((rows,), "float32"), *left)
    (g,) = ops.while_loop(more, advance, (begin,))
    return g.words, g.log_p


def row_count(arrays: Any) -> Any:
    """Return how many rows the arrays of a nest have, an int or an array ()."""
    return ops.shape(keras.tree.flatten(arrays)[0])[0]


def narrowed(going: Any, arrays: Any, at: float = 0.9) -> Any:
    """Leave out the rows of captions that have ended, once few enough go on.

    Args:
        going: bool (m,).
        arrays: a nest of arrays (m, ...).
        at: share of the rows at which leaving out is worth the copying.
    """
    if not NARROWS:
        return arrays

    def narrower() -> Any:
        (kept,) = ops.nonzero(going)
        return keras.tree.map_structure(lambda array: ops.take(array, kept, axis=0), arrays)

    if at == 1.0:
        return narrower()
    count = ops.sum(ops.cast(going, "float32"))
    few = count <= at * ops.cast(ops.shape(going)[0], "float32")
    return ops.cond(few, narrower, lambda: arrays)


def _unfinished(tokens: Any) -> Any:
    return ops.logical_and(ops.not_equal(tokens, END), ops.not_equal(tokens, PAD))


def log_probabilities(logits: Any, end_penalty: Any = 0.0) -> Any:
    """Log-softmax, with the tokens that no caption may contain made impossible.

    The end is `end_penalty` nats less probable than it is.
    """
    vocab_size = logits.shape[-1]
    cost = [-IMPOSSIBLE if token in (PAD, START, UNKNOWN) else 0.0 for token in range(vocab_size)]
    cost = ops.array(cost, "float32") + end_penalty * ops.one_hot(END, vocab_size)
    logits = ops.cast(logits, "float32")
    return (logits - cost) - ops.logsumexp(logits, axis=-1, keepdims=True)
