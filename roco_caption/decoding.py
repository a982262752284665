"""Greedy and beam search for a whole batch at once: a step function in, words out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from roco_caption.text import END, PAD, START, UNKNOWN

Step = Callable[[Any, Any], tuple[Any, Any]]

IMPOSSIBLE = -1e9


def greedy_search(step: Step, state: Any, *, n: int, max_words: int) -> tuple[Any, Any]:
    """Take the most probable word at every step.

    Args:
        step: `(tokens int (n,), state) → (logits (n, vocab_size), state)`.
        state: a nest of arrays (n, ...), before the first word.
        n: captions.
        max_words: words after which a caption ends at the latest.

    Returns:
        Tokens int32 (n, max_words), end and padding included, and each caption's
        log-probability float32 (n,).
    """

    def more(i: Any, tokens: Any, total: Any, words: Any, state: Any) -> Any:
        return ops.logical_and(i < max_words, ops.any(_unfinished(tokens)))

    def advance(i: Any, tokens: Any, total: Any, words: Any, state: Any) -> tuple:
        logits, state = step(tokens, state)
        log_p = _log_probabilities(logits)
        best = ops.cast(ops.argmax(log_p, axis=-1), "int32")
        going = _unfinished(tokens)
        gain = ops.take_along_axis(log_p, best[:, None], axis=-1)[:, 0]
        best = ops.where(going, best, PAD)
        words = ops.slice_update(words, (ops.zeros_like(i), i), best[:, None])
        return i + 1, best, total + ops.where(going, gain, 0.0), words, state

    start = (
        ops.convert_to_tensor(0, "int32"),
        ops.full((n,), START, "int32"),
        ops.zeros((n,), "float32"),
        ops.zeros((n, max_words), "int32"),
        state,
    )
    _, _, total, words, _ = ops.while_loop(more, advance, start)
    return words, total


def _unfinished(tokens: Any) -> Any:
    return ops.logical_and(ops.not_equal(tokens, END), ops.not_equal(tokens, PAD))


def _log_probabilities(logits: Any) -> Any:
    """Log-softmax, with the tokens that no caption may contain made impossible."""
    vocab_size = logits.shape[-1]
    never = ops.array([token in (PAD, START, UNKNOWN) for token in range(vocab_size)])
    log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return ops.where(never[None], IMPOSSIBLE, log_p)


class _Beams(NamedTuple):
    """What beam search carries from word to word, for `n` captions and `k` beams."""

    length: Any  # words so far, int32 ()
    words: Any  # of the captions still going, int32 (n, k, max_words)
    log_p: Any  # float32 (n, k)
    done_words: Any  # of the best captions that have ended, int32 (n, k, max_words)
    done_log_p: Any  # float32 (n, k)
    done_score: Any  # log-probability by length, float32 (n, k)
    state: Any  # the step function's, (n * k, ...)


def beam_search(step: Step, state: Any, **options: Any) -> tuple[Any, Any]:
    """Return the best caption that `beam_candidates` finds; arguments are as there.

    Returns:
        Tokens int32 (n, max_words), end and padding included, and each caption's
        log-probability float32 (n,).
    """
    words, log_p = beam_candidates(step, state, **options)
    return words[:, 0], log_p[:, 0]


def beam_candidates(
    step: Step,
    state: Any,
    *,
    n: int,
    max_words: int,
    beams: int = 3,
    length_power: float = 1.0,
    no_repeat: int = 2,
    end_penalty: Any = 0.0,
) -> tuple[Any, Any]:
    """Keep the `beams` most probable beginnings; return the best whole captions found.

    A caption's score is its log-probability divided by its length (end counted) to the power
    `length_power`, so that long captions are not worse for being long (Wu et al. 2016, "Google's
    Neural Machine Translation System", section 7); its end counts as `end_penalty` nats less
    probable than it is, since beams prefer captions that end early. A caption that reaches
    `max_words` without an end competes as it is. The search stops when no beginning can beat what
    has ended.

    Args:
        step: `(tokens int (n * beams,), state) → (logits (n * beams, vocab_size), state)`.
        state: a nest of arrays (n, ...), before the first word.
        n: captions.
        max_words: words after which a caption ends at the latest.
        beams: beginnings kept at every step.
        length_power: 0 ranks by log-probability alone.
        no_repeat: no run of this many words may occur twice in a caption; 0 allows it.
        end_penalty: at least 0, a number or an array ().

    Returns:
        Tokens int32 (n, beams, max_words), end and padding included, the best caption first, and
        each one's log-probability float32 (n, beams). Where fewer captions exist, the last have
        a log-probability below `IMPOSSIBLE / 2` and mean nothing.
    """

    def more(b: _Beams) -> Any:
        # a log-probability only falls, so this is the best that a beginning can still reach
        hope = ops.max(b.log_p, axis=1) / float(max_words) ** length_power
        return ops.logical_and(b.length < max_words, ops.any(hope > ops.min(b.done_score, axis=1)))

    def advance(b: _Beams) -> tuple[_Beams]:
        log_p, state = _next_words(step, b, no_repeat)
        vocab_size = log_p.shape[-1]
        log_p -= end_penalty * ops.one_hot(END, vocab_size)
        joint = ops.reshape(b.log_p[:, :, None] + log_p, (n, beams * vocab_size))
        # each beginning has one end, so of the best 2 * beams at least `beams` go on
        log_p, chosen = ops.top_k(joint, 2 * beams)
        origin, token = chosen // vocab_size, ops.cast(chosen % vocab_size, "int32")
        words = ops.take_along_axis(b.words, origin[:, :, None], axis=1)
        zero = ops.zeros_like(b.length)
        words = ops.slice_update(words, (zero, zero, b.length), token[:, :, None])
        ends = ops.equal(token, END)
        b = _add_finished(b, words, log_p, ends, length_power, end_penalty)
        log_p, kept = ops.top_k(ops.where(ends, IMPOSSIBLE, log_p), beams)
        words = ops.take_along_axis(words, kept[:, :, None], axis=1)
        origin = ops.take_along_axis(origin, kept, axis=1) + ops.arange(n)[:, None] * beams
        state = keras.tree.map_structure(
            lambda array: ops.take(array, ops.reshape(origin, (-1,)), axis=0), state
        )
        return (b._replace(length=b.length + 1, words=words, log_p=log_p, state=state),)

    (b,) = ops.while_loop(more, advance, (_first_beams(state, n, beams, max_words),))
    return _ranked(b, float(max_words) ** length_power)


def _first_beams(state: Any, n: int, beams: int, max_words: int) -> _Beams:
    none = ops.full((n, beams), IMPOSSIBLE, "float32")
    words = ops.zeros((n, beams, max_words), "int32")
    # all beams start alike, so only the first may be continued at first
    log_p = ops.where(ops.arange(beams)[None] == 0, ops.zeros_like(none), none)
    state = keras.tree.map_structure(lambda array: ops.repeat(array, beams, axis=0), state)
    return _Beams(ops.convert_to_tensor(0, "int32"), words, log_p, words, none, none, state)


def _next_words(step: Step, b: _Beams, no_repeat: int) -> tuple[Any, Any]:
    """Return log-probabilities of the next words (n, beams, vocab_size) and the new state."""
    n, beams, max_words = b.words.shape
    words = ops.reshape(b.words, (n * beams, max_words))
    last = ops.take(words, ops.maximum(b.length - 1, 0), axis=1)
    logits, state = step(ops.where(b.length == 0, START, last), b.state)
    log_p = _log_probabilities(logits)
    if no_repeat:
        log_p = _without_repeats(log_p, words, b.length, no_repeat)
    return ops.reshape(log_p, (n, beams, log_p.shape[-1])), state


def _without_repeats(log_p: Any, words: Any, length: Any, run: int) -> Any:
    """Make impossible each word that would complete a run of `run` words a second time.

    Args:
        log_p: float32 (rows, vocab_size).
        words: int32 (rows, max_words), of which the first `length` are set.
        length: int32 ().
        run: at least 1.
    """
    windows = words.shape[1] - run + 1
    if windows < 1:
        return log_p
    repeats = ops.arange(windows)[None] + run - 1 < length  # the run ended before now
    for k in range(run - 1):
        latest = ops.take(words, ops.maximum(length - run + 1 + k, 0), axis=1)
        repeats = ops.logical_and(repeats, ops.equal(words[:, k : k + windows], latest[:, None]))
    banned = ops.where(repeats, words[:, run - 1 :], PAD)  # padding is impossible anyway
    rows = ops.broadcast_to(ops.arange(words.shape[0], dtype="int32")[:, None], banned.shape)
    places = ops.reshape(ops.stack([rows, banned], axis=-1), (-1, 2))
    return ops.scatter_update(log_p, places, ops.full((places.shape[0],), IMPOSSIBLE, log_p.dtype))


def _add_finished(
    b: _Beams, words: Any, log_p: Any, ends: Any, length_power: float, end_penalty: Any
) -> _Beams:
    """Keep the best of the captions that ended before and those that end now."""
    power = ops.power(ops.cast(b.length + 1, "float32"), length_power)
    valid = ops.logical_and(ends, log_p > IMPOSSIBLE / 2)
    score = ops.where(valid, log_p / power, IMPOSSIBLE)
    score, kept = ops.top_k(ops.concatenate([b.done_score, score], axis=1), log_p.shape[1] // 2)
    words = ops.concatenate([b.done_words, words], axis=1)
    log_p = ops.concatenate([b.done_log_p, log_p + end_penalty], axis=1)
    return b._replace(
        done_words=ops.take_along_axis(words, kept[:, :, None], axis=1),
        done_log_p=ops.take_along_axis(log_p, kept, axis=1),
        done_score=score,
    )


def _ranked(b: _Beams, power: float) -> tuple[Any, Any]:
    """Return the best captions, of those that ended and those cut off at full length."""
    cut = ops.where(ops.equal(b.length, b.words.shape[2]), b.log_p / power, IMPOSSIBLE)
    score, best = ops.top_k(ops.concatenate([b.done_score, cut], axis=1), b.log_p.shape[1])
    words = ops.concatenate([b.done_words, b.words], axis=1)
    log_p = ops.concatenate([b.done_log_p, b.log_p], axis=1)
    words = ops.take_along_axis(words, best[:, :, None], axis=1)
    log_p = ops.take_along_axis(log_p, best, axis=1)
    return words, ops.where(score > IMPOSSIBLE / 2, log_p, IMPOSSIBLE)
