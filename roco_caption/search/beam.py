"""Beam search for a whole batch at once: a step function in, the best captions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from roco_caption.core.errors import at_least
from roco_caption.decoder.model import Step
from roco_caption.search.greedy import (
    IMPOSSIBLE,
    likeliest,
    narrowed,
    picked,
    possible,
    with_word,
)
from roco_caption.text.tokenizer import END, PAD, START

SURE_WORDS = 5  # a beginning goes on if it would win, were this many next words certain


@dataclass(frozen=True)
class Search:
    """How captions are decoded.

    One beam without `no_repeat` and `neighbours` is greedy search: `caption_features` then ends a
    caption where its end is most probable. A beam search of one beam may go on past such an end.
    """

    beams: int = 3
    no_repeat: int = 2  # no run of so many words comes twice, see `_repetitions`; 0: allowed
    end_penalty: float = 0.0  # nats taken from an end, at least 0: beams prefer short captions
    neighbours: int = 0  # captions of similar images that rerank, see `Consensus`; 0 is off
    word_bonus: float = 0.0  # of reranking, see `Candidates.ranked`

    def __post_init__(self) -> None:
        at_least(1, beams=self.beams)
        at_least(0, no_repeat=self.no_repeat, neighbours=self.neighbours)


class _Active(NamedTuple):
    """The `m` images whose search goes on, with `k` beams each."""

    rows: Any  # their rows in the batch, int32 (m,)
    words: Any  # beginnings of captions, int32 (m, k, max_words)
    log_p: Any  # float32 (m, k)
    done_words: Any  # the best captions that have ended, int32 (m, k, max_words)
    done_log_p: Any  # float32 (m, k)
    done_score: Any  # float32 (m, k), in descending order
    state: Any  # the step function's, (m, k, ...)
    image: Any  # (m, ...)


def beam_search(
    step: Step, state: Any, image: Any, *, search: Search | None = None, **options: Any
) -> tuple[Any, Any]:
    """Return the best captions of `beam_candidates`: int32 (rows, max_words), float32 (rows,)."""
    words, log_p = beam_candidates(
        step, state, image, search=search or Search(), needed=1, **options
    )
    return words[:, 0], log_p[:, 0]


def beam_candidates(
    step: Step,
    state: Any,
    image: Any,
    *,
    n: Any,
    max_words: int,
    search: Search,
    needed: int,
    measures: np.ndarray | None = None,
) -> tuple[Any, Any]:
    """Extend the most probable beginnings word by word; return the best captions.

    Captions are ranked by log-probability per word, the end counted.

    Args:
        step: `(tokens int (m, beams), state, image) → (logits (m, beams, vocab_size), state)`.
        state, image: nests of arrays (rows, ...), for the step (m, beams, ...) and (m, ...).
        n: number of captions, an int or an array (): of the first rows, as the rest is padding.
        max_words: of a caption, its end included; there it ends, however improbable that is.
        search: its beams, no_repeat and end_penalty, which may be an array (), count.
        needed: how many captions per image must be final before its search stops.
        measures: of the tokenizer. Near a number a run of words may come twice, and near a number
            and "×" three times.

    Returns:
        Tokens int32 (rows, beams, max_words), end and padding included, the best caption first,
        and log-probabilities float32 (rows, beams), not `possible` where fewer captions exist.
    """

    def more(length: Any, finished: Any, active: _Active) -> Any:
        return ops.logical_and(length < max_words, ops.any(possible(active.log_p)))

    def add_word(length: Any, finished: Any, active: _Active) -> tuple[Any, Any, _Active]:
        active = _advanced(step, length, active, search, needed, measures)
        finished = _collected(finished, active)
        return length + 1, finished, narrowed(possible(active.log_p[:, 0]), active)

    count, beams = ops.shape(keras.tree.flatten(image)[0])[0], search.beams
    rows = ops.arange(count, dtype="int32")
    impossible = ops.zeros((count, beams), "float32") + IMPOSSIBLE
    words = ops.zeros((count, beams, max_words), "int32")
    # all beams start alike, so only the first is extended by the first word
    first = ops.logical_and(rows[:, None] < n, ops.arange(beams)[None] == 0)
    log_p = ops.where(first, 0.0, impossible)
    state = keras.tree.map_structure(lambda a: ops.repeat(a[:, None], beams, axis=1), state)
    active = _Active(rows, words, log_p, words, impossible, impossible, state, image)
    start = (ops.zeros((), "int32"), (words, impossible), narrowed(rows < n, active, at=1.0))
    _, finished, _ = ops.while_loop(more, add_word, start)
    return finished


def _advanced(
    step: Step, length: Any, active: _Active, search: Search, needed: int, measures: Any
) -> _Active:
    """Add a word to all beginnings, and stop where the best `needed` captions are final."""
    beams = search.beams
    # each beginning has one end, so at least `beams` of the best 2 * beams go on
    log_p, tokens, origins, state = _next_words(step, length, active, 2 * beams, search, measures)
    log_p, best = ops.top_k(log_p, 2 * beams)
    origins, tokens = picked(origins, best), picked(tokens, best)
    words = with_word(picked(active.words, origins), length, tokens)
    ends, length = ops.equal(tokens, END), ops.cast(length + 1, "float32")
    score = log_p / length
    active = _with_finished(active, words, log_p + search.end_penalty, score, ends)
    log_p, best = ops.top_k(ops.where(ends, IMPOSSIBLE, log_p), beams)
    reach = ops.minimum(length + SURE_WORDS, float(words.shape[2]))
    hope = log_p[:, :1] / reach
    log_p = ops.where(hope > active.done_score[:, needed - 1 : needed], log_p, IMPOSSIBLE)
    words, origins = picked(words, best), picked(origins, best)
    state = keras.tree.map_structure(lambda array: picked(array, origins), state)
    return active._replace(words=words, log_p=log_p, state=state)


def _next_words(
    step: Step, length: Any, active: _Active, count: int, search: Search, measures: Any
) -> tuple[Any, Any, Any, Any]:
    """Return the best ways to go on, as `likeliest` does, and the state."""
    last = ops.take(active.words, ops.maximum(length - 1, 0), axis=2)
    logits, state = step(ops.where(length == 0, START, last), active.state, active.image)
    barred = None
    if search.no_repeat:
        words = ops.reshape(active.words, (-1, active.words.shape[2]))
        barred = _repetitions(words, length, search.no_repeat, measures)
        barred = ops.reshape(barred, (-1, active.words.shape[1], barred.shape[1]))
    options = {"end_penalty": search.end_penalty, "barred": barred}
    options["full"] = ops.equal(length, active.words.shape[2] - 1)
    return *likeliest(logits, active.log_p, count, **options), state


def _repetitions(words: Any, length: Any, run: int, measures: Any) -> Any:
    """Return the words that would repeat a run of `run` words too often, and the last word.

    Of `words`, int32 (rows, max_words), `length` are set. The result is padded with `PAD`.
    """
    windows = max(words.shape[1] - run + 1, 0)
    repeats = ops.arange(windows)[None] + run - 1 < length  # the run ended before now
    for k in range(run - 1):
        latest = ops.take(words, ops.maximum(length - run + 1 + k, 0), axis=1)
        repeats = ops.logical_and(repeats, ops.equal(words[:, k : k + windows], latest[:, None]))
    last = ops.take(words, ops.maximum(length - 1, 0), axis=1)  # PAD before the first word
    repeated = ops.where(repeats, words[:, run - 1 :], PAD)
    if measures is not None and measures[0].any():
        near = [ops.take(words, ops.maximum(length - k, 0), axis=1) for k in range(1, run + 1)]
        near = [*(latest[:, None] for latest in near), repeated]
        is_number, is_times = (sum(ops.take(kind, word) for word in near) > 0 for kind in measures)
        often = 1 + ops.cast(is_number, "int32") * (1 + ops.cast(is_times, "int32"))
        # times that what comes before it was written: at least as often as the run
        seen = ops.sum(ops.cast(repeats, "int32"), axis=1, keepdims=True)
        repeated = ops.where(seen < often, PAD, repeated)
    return ops.concatenate([repeated, last[:, None]], axis=1)


def _with_finished(active: _Active, words: Any, log_p: Any, score: Any, ends: Any) -> _Active:
    """Keep the best of the captions finished before and of those that finish now, where `ends`."""
    score = ops.where(ops.logical_and(ends, possible(log_p)), score, IMPOSSIBLE)
    scores = ops.concatenate([active.done_score, score], axis=1)
    score, best = ops.top_k(scores, active.log_p.shape[1])
    return active._replace(
        done_words=picked(ops.concatenate([active.done_words, words], axis=1), best),
        done_log_p=picked(ops.concatenate([active.done_log_p, log_p], axis=1), best),
        done_score=score,
    )


def _collected(finished: tuple[Any, Any], active: _Active) -> tuple[Any, Any]:
    """Update the captions of all images, words (n, k, max_words) and log_p (n, k)."""
    rows = active.rows[:, None]
    log_p = ops.where(possible(active.done_score), active.done_log_p, IMPOSSIBLE)
    words = ops.scatter_update(finished[0], rows, active.done_words)
    return words, ops.scatter_update(finished[1], rows, log_p)
