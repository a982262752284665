"""Greedy search for a whole batch at once, and what it shares with beam search."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from roco_caption.decoder.model import Step
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

IMPOSSIBLE = -1e9  # log-probability of what may not be chosen
NARROWS = keras.backend.backend() == "tensorflow"  # elsewhere shapes may not change in a loop


def greedy_search(step: Step, state: Any, image: Any, *, n: Any, max_words: int) -> tuple[Any, Any]:
    """Take the most probable word at every step; see `beam_search`, with one beam.

    The search goes on for `m` captions: `rows` in the batch and `last` words are int32 (m,), the
    nests `state` and `image` have arrays (m, 1, ...) and (m, ...).
    """

    def more(length: Any, words: Any, log_p: Any, rows: Any, last: Any, *_: Any) -> Any:
        return ops.logical_and(length < max_words, ops.any(_unfinished(last)))

    def add_word(length: Any, words: Any, log_p: Any, *active: Any) -> tuple[Any, ...]:
        rows, last, state, image = active
        logits, state = step(last[:, None], state, image)
        next_log_p, tokens = likeliest(logits[:, 0], 1)
        best = picked(tokens, ops.argmax(next_log_p, axis=-1)[:, None])[:, 0]
        going = _unfinished(last)
        best = ops.where(going, best, PAD)
        gain = ops.where(going, ops.max(next_log_p, axis=-1), 0.0)
        column = ops.scatter(rows[:, None], best, (count,))
        words = with_word(words, length, column)
        log_p = log_p + ops.scatter(rows[:, None], gain, (count,))
        active = narrowed(_unfinished(best), (rows, best, state, image))
        return length + 1, words, log_p, *active

    count = ops.shape(keras.tree.flatten(image)[0])[0]
    rows = ops.arange(count, dtype="int32")
    state = keras.tree.map_structure(lambda array: array[:, None], state)
    active = (rows, ops.where(rows < n, START, PAD), state, image)
    active = narrowed(rows < n, active, at=1.0)
    words, log_p = ops.zeros((count, max_words), "int32"), ops.zeros((count,), "float32")
    start = (ops.zeros((), "int32"), words, log_p, *active)
    _, words, log_p, *_ = ops.while_loop(more, add_word, start)
    return words, log_p


def with_word(words: Any, place: Any, tokens: Any) -> Any:
    """Return captions int32 (..., max_words) with the tokens (...) at `place`, an int array ().

    `ops.slice_update` would be compiled again for each number of captions.
    """
    places = ops.arange(words.shape[-1], dtype="int32")
    return ops.where(ops.equal(places, place), tokens[..., None], words)


def _unfinished(tokens: Any) -> Any:
    return ops.logical_and(ops.not_equal(tokens, END), ops.not_equal(tokens, PAD))


def possible(log_p: Any) -> Any:
    """Return where a log-probability is that of a real caption or word."""
    return log_p > IMPOSSIBLE / 2


def narrowed(going: Any, arrays: Any, at: float = 0.9) -> Any:
    """Keep the rows of a nest of arrays (m, ...) where `going`, bool (m,), if at most `at` of them.

    Dropping the others costs a copy.
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
    """Return log-probabilities of the most probable next words and the end, and their tokens.

    Logits are (m, vocab_size), the results float32 and int32 (m, c): at least `count` words if the
    vocabulary has as many, and the end last. `end_penalty`, in nats, is subtracted from the end's;
    special tokens and the words in `barred`, int32 (m, j) padded with `PAD`, have `IMPOSSIBLE`.
    """
    logits = ops.cast(logits, "float32")
    k = count + 4  # `PAD`, `START`, `END` and `UNKNOWN` may be among the best
    if barred is not None:
        most = ops.max(ops.sum(ops.cast(ops.not_equal(barred, PAD), "int32"), axis=1))
        k = k + (most if NARROWS else barred.shape[1])
    n = logits.shape[1]
    largest, tokens = ops.top_k(logits, min(k, n) if isinstance(k, int) else ops.minimum(k, n))
    tokens = ops.cast(tokens, "int32")
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


def picked(array: Any, index: Any) -> Any:
    """Return the entries `index`, int (m, j), of an array (m, k, ...) as (m, j, ...)."""
    m, k = ops.shape(array)[:2]
    flat = ops.reshape(array, (-1, *array.shape[2:]))
    first = k * ops.arange(m, dtype="int32")[:, None]
    return ops.take(flat, first + ops.cast(index, "int32"), axis=0)
