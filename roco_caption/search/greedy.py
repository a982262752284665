"""Greedy search for a whole batch at once, and what beam search shares with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from roco_caption.decoder.model import Step
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

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
        log_p, tokens = likeliest(logits[:, 0], 1)
        best = picked(tokens, ops.argmax(log_p, axis=-1)[:, None])[:, 0]
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


def likeliest(
    logits: Any, count: int, *, end_penalty: Any = 0.0, barred: Any = None
) -> tuple[Any, Any]:
    """Return the most probable next words and the end, with their log-probabilities.

    Args:
        logits: float (m, vocab_size).
        count: words wanted, the end not counted.
        end_penalty: by how many nats the end is less probable than it is.
        barred: words that may not follow, int32 (m, j), `PAD` where there is none.

    Returns:
        Log-probabilities float32 (m, c) and tokens int32 (m, c): at least `count` words where the
        vocabulary has so many, then the end. Those that may not follow, and tokens that no caption
        contains, have `IMPOSSIBLE`.
    """
    logits = ops.cast(logits, "float32")
    room = count + 4  # `PAD`, `START`, `END` and `UNKNOWN` may be among the best
    if barred is not None:
        most = ops.max(ops.sum(ops.cast(ops.not_equal(barred, PAD), "int32"), axis=1))
        room = room + (most if NARROWS else barred.shape[1])
    largest, tokens = top_k_by_blocks(logits, room)
    top = largest[:, :1]  # known, so that ops.logsumexp need not look for it again
    total = top + ops.log(ops.sum(ops.exp(logits - top), axis=-1, keepdims=True))
    allowed = tokens > UNKNOWN
    if barred is not None:
        twice = ops.any(ops.equal(tokens[:, :, None], barred[:, None, :]), axis=-1)
        allowed = ops.logical_and(allowed, ops.logical_not(twice))
    log_p = ops.where(allowed, largest - total, IMPOSSIBLE)
    end = logits[:, END : END + 1] - total - end_penalty
    ends = ops.full_like(tokens[:, :1], END)
    return ops.concatenate([log_p, end], axis=1), ops.concatenate([tokens, ends], axis=1)


def top_k_by_blocks(array: Any, k: Any, block: int = 64) -> tuple[Any, Any]:
    """Return the `k` largest entries of each row and their columns, as `ops.top_k` does, but fast.

    The `k` largest lie in the `k` blocks with the largest maxima, and maxima are found many at a
    time, where sorting looks at one entry after the other.

    Args:
        array: float (m, n).
        k: an int, or with TensorFlow an array (); n where it is more.
        block: columns looked at together.

    Returns:
        float (m, k), falling, and int32 (m, k).
    """
    n = array.shape[1]
    blocks = -(-n // block)
    if blocks < 8:  # few entries are sorted as soon
        largest, columns = ops.top_k(array, _at_most(k, n))
        return largest, ops.cast(columns, "int32")
    if n % block:
        array = ops.pad(array, ((0, 0), (0, -n % block)), constant_values=2 * IMPOSSIBLE)
    parts = ops.reshape(array, (-1, blocks, block))
    _, chosen = ops.top_k(ops.max(parts, axis=-1), _at_most(k, blocks))
    near = ops.reshape(picked(parts, chosen), (ops.shape(array)[0], -1))
    largest, places = ops.top_k(near, _at_most(k, n))
    places = ops.cast(places, "int32")
    chosen = ops.cast(picked(chosen, places // block), "int32")
    return largest, chosen * block + places % block


def _at_most(k: Any, n: int) -> Any:
    return min(k, n) if isinstance(k, int) else ops.minimum(k, n)


def picked(array: Any, index: Any) -> Any:
    """Return the entries `index` int (m, j) of an array (m, k, ...), as (m, j, ...)."""
    m, k = ops.shape(array)[:2]
    flat = ops.reshape(array, (-1, *array.shape[2:]))
    index = ops.cast(index, "int32")
    return ops.take(flat, index + k * ops.arange(m, dtype="int32")[:, None], axis=0)
