"""Greedy search for a whole batch at once, and what it shares with beam search."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from roco_caption.decoder.model import Step
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

IMPOSSIBLE = -1e9  # log-probability of what may not be chosen
NARROWS = keras.backend.backend() == "tensorflow"  # elsewhere shapes may not change in a loop


class _Active(NamedTuple):
    """The `m` captions that have not ended."""

    rows: Any  # their rows in the batch, int32 (m,)
    last: Any  # their latest word, int32 (m,)
    state: Any  # the step function's, (m, 1, ...)
    image: Any  # (m, ...)


class _Greedy(NamedTuple):
    """What greedy search carries from word to word, for `n` captions."""

    length: Any  # words so far, int32 ()
    words: Any  # int32 (n, max_words)
    log_p: Any  # float32 (n,)
    active: _Active


def greedy_search(step: Step, state: Any, image: Any, *, n: Any, max_words: int) -> tuple[Any, Any]:
    """Take the most probable word at every step; see `beam_search`, with one beam."""

    def more(g: _Greedy) -> Any:
        return ops.logical_and(g.length < max_words, ops.any(_unfinished(g.active.last)))

    def add_word(g: _Greedy) -> tuple[_Greedy]:
        active = g.active
        logits, state = step(active.last[:, None], active.state, active.image)
        log_p, tokens = likeliest(logits[:, 0], 1)
        best = picked(tokens, ops.argmax(log_p, axis=-1)[:, None])[:, 0]
        going = _unfinished(active.last)
        best = ops.where(going, best, PAD)
        gain = ops.where(going, ops.max(log_p, axis=-1), 0.0)
        column = ops.scatter(active.rows[:, None], best, (rows,))
        words = ops.slice_update(g.words, (ops.zeros_like(g.length), g.length), column[:, None])
        log_p = g.log_p + ops.scatter(active.rows[:, None], gain, (rows,))
        active = narrowed(_unfinished(best), active._replace(last=best, state=state))
        return (_Greedy(g.length + 1, words, log_p, active),)

    rows = row_count(image)
    every = ops.arange(rows, dtype="int32")
    state = keras.tree.map_structure(lambda array: array[:, None], state)
    active = _Active(every, ops.where(every < n, START, PAD), state, image)
    active = narrowed(every < n, active, at=1.0)
    words, log_p = ops.zeros((rows, max_words), "int32"), ops.zeros((rows,), "float32")
    start = _Greedy(ops.convert_to_tensor(0, "int32"), words, log_p, active)
    (g,) = ops.while_loop(more, add_word, (start,))
    return g.words, g.log_p


def _unfinished(tokens: Any) -> Any:
    return ops.logical_and(ops.not_equal(tokens, END), ops.not_equal(tokens, PAD))


def possible(log_p: Any) -> Any:
    """Return where a log-probability is that of a real caption or word."""
    return log_p > IMPOSSIBLE / 2


def row_count(arrays: Any) -> Any:
    """Return the number of rows of the arrays of a nest, an int or an array ()."""
    return ops.shape(keras.tree.flatten(arrays)[0])[0]


def narrowed(going: Any, arrays: Any, at: float = 0.9) -> Any:
    """Drop the rows of captions that have ended, if at most a share of `at` goes on.

    Of arrays in a nest, (m, ...), those rows stay where `going`, bool (m,). Dropping costs a copy.
    """
    if not NARROWS:
        return arrays

    def drop() -> Any:
        (rows,) = ops.nonzero(going)
        return keras.tree.map_structure(lambda array: ops.take(array, rows, axis=0), arrays)

    count = ops.sum(ops.cast(going, "float32"))
    few = count <= at * ops.cast(ops.shape(going)[0], "float32")
    return ops.cond(few, drop, lambda: arrays)


def likeliest(
    logits: Any, count: int, *, end_penalty: Any = 0.0, barred: Any = None
) -> tuple[Any, Any]:
    """Return the most probable next words and the end, with their log-probabilities.

    Args:
        logits: float (m, vocab_size).
        count: words to return, if the vocabulary has as many; there may be more.
        end_penalty: nats to subtract from the end's log-probability.
        barred: words that may not follow, int32 (m, j), filled up with `PAD`.

    Returns:
        Log-probabilities float32 (m, c) and tokens int32 (m, c), the end last. Barred words and
        special tokens that no caption contains have `IMPOSSIBLE`.
    """
    logits = ops.cast(logits, "float32")
    k = count + 4  # `PAD`, `START`, `END` and `UNKNOWN` may be among the best
    if barred is not None:
        most = ops.max(ops.sum(ops.cast(ops.not_equal(barred, PAD), "int32"), axis=1))
        k = k + (most if NARROWS else barred.shape[1])
    largest, tokens = top_k_by_blocks(logits, k)
    top = largest[:, :1]  # known, so that ops.logsumexp need not look for it again
    total = top + ops.log(ops.sum(ops.exp(logits - top), axis=-1, keepdims=True))
    allowed = tokens > UNKNOWN
    if barred is not None:
        is_barred = ops.any(ops.equal(tokens[:, :, None], barred[:, None, :]), axis=-1)
        allowed = ops.logical_and(allowed, ops.logical_not(is_barred))
    log_p = ops.where(allowed, largest - total, IMPOSSIBLE)
    end = logits[:, END : END + 1] - total - end_penalty
    ends = ops.full_like(tokens[:, :1], END)
    return ops.concatenate([log_p, end], axis=1), ops.concatenate([tokens, ends], axis=1)


def top_k_by_blocks(array: Any, k: Any, block: int = 64) -> tuple[Any, Any]:
    """Return the `k` largest entries of each row and their columns: a faster `ops.top_k`.

    The `k` largest entries are in the `k` blocks with the largest maxima, and maxima are vectorised
    where sorting is not.
    `array` is float (m, n); `k` is an int, or with TensorFlow an array ().
    """
    n = array.shape[1]
    blocks = -(-n // block)
    if blocks < 8:  # sorting few entries is as fast
        largest, columns = ops.top_k(array, _at_most(k, n))
        return largest, ops.cast(columns, "int32")
    if n % block:
        array = ops.pad(array, ((0, 0), (0, -n % block)), constant_values=2 * IMPOSSIBLE)
    parts = ops.reshape(array, (-1, blocks, block))
    _, best = ops.top_k(ops.max(parts, axis=-1), _at_most(k, blocks))
    entries = ops.reshape(picked(parts, best), (ops.shape(array)[0], -1))
    largest, places = ops.top_k(entries, _at_most(k, n))
    places = ops.cast(places, "int32")
    best = ops.cast(picked(best, places // block), "int32")
    return largest, best * block + places % block


def _at_most(k: Any, n: int) -> Any:
    return min(k, n) if isinstance(k, int) else ops.minimum(k, n)


def picked(array: Any, index: Any) -> Any:
    """Return the entries `index`, int (m, j), of an array (m, k, ...) as (m, j, ...)."""
    m, k = ops.shape(array)[:2]
    flat = ops.reshape(array, (-1, *array.shape[2:]))
    first = k * ops.arange(m, dtype="int32")[:, None]
    return ops.take(flat, first + ops.cast(index, "int32"), axis=0)
