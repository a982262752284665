"""Greedy search for a whole batch at once, and what it shares with beam search."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from roco_caption.decoder.layers import WORD_BLOCK
from roco_caption.decoder.model import Step
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

IMPOSSIBLE = -1e9  # log-probability of what may not be chosen
LEAST = 1e-37  # probability of an end: it is never impossible, as a caption must have one
NARROWS = keras.backend.backend() == "tensorflow"  # elsewhere shapes may not change in a loop


def greedy_search(step: Step, state: Any, image: Any, *, n: Any, max_words: int) -> tuple[Any, Any]:
    """Take the most probable word at every step; see `beam_candidates`, with one beam.

    The search goes on for `m` captions: `rows` in the batch and `last` words are int32 (m,), the
    nests `state` and `image` have arrays (m, 1, ...) and (m, ...).
    """

    def more(length: Any, words: Any, log_p: Any, rows: Any, last: Any, *_: Any) -> Any:
        return ops.logical_and(length < max_words, ops.any(_unfinished(last)))

    def add_word(length: Any, words: Any, log_p: Any, *active: Any) -> tuple[Any, ...]:
        rows, last, state, image = active
        logits, state = step(last[:, None], state, image)
        no_log_p, full = ops.zeros_like(last[:, None], "float32"), ops.equal(length, max_words - 1)
        next_log_p, tokens, _ = likeliest(logits, no_log_p, 1, full=full)
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
    logits: Any, log_p: Any, count: int, *,
    end_penalty: Any = 0.0, barred: Any = None, full: Any = False,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return how captions begun go on: with the most probable words, and with an end.

    Args:
        logits: of the next words of `k` beginnings of each of `m` captions, (m, k, vocab_size).
        log_p: of the beginnings, float32 (m, k).
        count: words to find per caption, of all its beginnings together; at most `WORD_BLOCK * k`.
        end_penalty: subtracted from an end's log-probability, in nats.
        barred: words that may not follow, int32 (m, k, j), padded with `PAD`.
        full: whether only an end may follow, a bool array ().

    Returns:
        Log-probabilities float32, tokens and beginnings int32, each (m, count + k): the words in
        descending order, then the end of each beginning. Where fewer words may follow, the rest is
        `PAD` and `IMPOSSIBLE`, as words are whose probability is 0 in float32.
    """
    m, k = ops.shape(log_p)[0], log_p.shape[1]
    barred = _without_padding(barred)
    # the softmax is one fused pass on a CPU; logarithms are taken of the few best words only
    probabilities = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    ends = ops.log(ops.maximum(probabilities[:, :, END], LEAST)) - end_penalty + log_p
    # the best words are in the blocks of the best ones, so most words are never compared; what may
    # not follow may hide them: a special token in one block of a beginning, a barred word in one
    blocks, each = _blocks(probabilities)
    best = ops.reshape(ops.max(blocks, axis=-1), (m, k, each))
    hidden = k if barred is None else k * (1 + ops.shape(barred)[2])
    best = _log(best) + log_p[:, :, None]
    smaller = min if isinstance(hidden, int) else ops.minimum  # only TensorFlow takes a tensor
    wanted = smaller(count + hidden, k * each)
    _, chosen = ops.top_k(ops.reshape(best, (m, k * each)), wanted)
    chosen = ops.cast(chosen, "int32")[:, :, None]
    origins = chosen // each
    tokens = chosen % each * WORD_BLOCK + ops.arange(WORD_BLOCK, dtype="int32")
    words = _log(picked(blocks, chosen[:, :, 0]))
    words = words + picked(log_p[:, :, None], origins[:, :, 0])
    allowed = ops.logical_and(tokens > UNKNOWN, ops.logical_not(full))
    if barred is not None:
        not_here = picked(barred, origins[:, :, 0])[:, :, None]
        is_barred = ops.any(ops.equal(tokens[..., None], not_here), axis=-1)
        allowed = ops.logical_and(allowed, ops.logical_not(is_barred))
    words = ops.where(ops.logical_and(allowed, possible(words)), words, IMPOSSIBLE)
    words, found = ops.top_k(ops.reshape(words, (m, -1)), count)
    tokens = picked(ops.reshape(tokens, (m, -1)), found)
    beginnings = ops.broadcast_to(ops.arange(k, dtype="int32")[None], (m, k))
    return (
        ops.concatenate([words, ends], axis=1),
        ops.concatenate(
            [ops.where(possible(words), tokens, PAD), ops.full_like(beginnings, END)], axis=1
        ),
        ops.concatenate([picked(origins[:, :, 0], found // WORD_BLOCK), beginnings], axis=1),
    )


def _log(probabilities: Any) -> Any:
    return ops.maximum(ops.log(probabilities), IMPOSSIBLE)  # not the infinity of 0


def _blocks(probabilities: Any) -> tuple[Any, int]:
    """Return probabilities (m, k, words) as blocks (m, k * each, WORD_BLOCK), and `each`."""
    (m, k), words = ops.shape(probabilities)[:2], probabilities.shape[2]
    each = -(-words // WORD_BLOCK)
    if words % WORD_BLOCK:
        probabilities = ops.pad(probabilities, [[0, 0], [0, 0], [0, -words % WORD_BLOCK]])
    return ops.reshape(probabilities, (m, k * each, WORD_BLOCK)), each


def _without_padding(barred: Any) -> Any:
    """Return barred words (m, k, j) with as few columns as will do, if shapes may change."""
    if barred is None or not NARROWS:
        return barred
    most = ops.max(ops.sum(ops.cast(ops.not_equal(barred, PAD), "int32"), axis=2))
    return ops.top_k(barred, most)[0]


def picked(array: Any, index: Any) -> Any:
    """Return the entries `index`, int (m, j), of an array (m, k, ...) as (m, j, ...)."""
    m, k, *entry = ops.shape(array)
    flat = ops.reshape(array, (-1, *entry))
    first = k * ops.arange(m, dtype="int32")[:, None]
    return ops.take(flat, first + ops.cast(index, "int32"), axis=0)
