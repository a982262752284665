"""Beam search for a whole batch at once: a step function in, the best captions out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import ops

from roco_caption.decoder.model import Decoder, Ensemble, Step
from roco_caption.search.greedy import IMPOSSIBLE, likeliest, narrowed, picked, row_count
from roco_caption.text.tokenizer import END, PAD, START

SURE_WORDS = 5  # certain ones, with which a beginning must beat what has ended to go on
CUT_OFF = 1e4  # nats by which a caption without an end is worse than any with one


@dataclass(frozen=True)
class Search:
    """How captions are decoded; one beam without `no_repeat` is greedy.

    Attributes:
        beams: this and the next three: see `beam_candidates`.
        contrast: see `contrasted`; probabilities are then those after weighing. 0 does without.
        neighbours: captions of the nearest training images that choose among what the beams found,
            see `Consensus`; 0 takes the search's own best.
        word_bonus: with neighbours, see `Candidates.ranked`.
    """

    beams: int = 3
    length_power: float = 1.0
    no_repeat: int = 2
    end_penalty: float = 0.0
    contrast: float = 0.0
    neighbours: int = 0
    word_bonus: float = 0.0


class _Beams(NamedTuple):
    """What beam search carries from word to word, for `m` of `n` captions and `k` beams."""

    length: Any  # words so far, int32 ()
    found: tuple[Any, Any]  # of the captions left out: words (n, k, max_words) and log_p (n, k)
    rows: Any  # which captions go on, int32 (m,)
    words: Any  # of their beginnings, int32 (m, k, max_words)
    log_p: Any  # float32 (m, k)
    done_words: Any  # of the best that have ended, int32 (m, k, max_words)
    done_log_p: Any  # float32 (m, k)
    done_score: Any  # log-probability by length, float32 (m, k), falling
    state: Any  # the step function's, (m, k, ...)
    image: Any  # (m, ...)


def beam_search(step: Step, state: Any, image: Any, **options: Any) -> tuple[Any, Any]:
    """Return the best caption that `beam_candidates` finds; arguments are as there.

    Returns:
        Tokens int32 (rows, max_words), end and padding included, and each caption's
        log-probability float32 (rows,).
    """
    words, log_p = beam_candidates(step, state, image, wanted=1, **options)
    return words[:, 0], log_p[:, 0]


def beam_candidates(
    step: Step,
    state: Any,
    image: Any,
    *,
    n: Any,
    max_words: int,
    beams: int = 3,
    length_power: float = 1.0,
    no_repeat: int = 2,
    end_penalty: Any = 0.0,
    wanted: int | None = None,
) -> tuple[Any, Any]:
    """Keep the `beams` most probable beginnings; return the best whole captions found.

    A caption's score is its log-probability divided by its length (end counted) to the power
    `length_power`, so that long captions are not worse for being long (Wu et al. 2016, "Google's
    Neural Machine Translation System", section 7); its end counts as `end_penalty` nats less
    probable than it is, since beams prefer captions that end early. A caption that reaches
    `max_words` without an end, in the middle of a sentence, stands behind all that have one. The
    search for a caption stops when no beginning would beat what has ended even if its next
    `SURE_WORDS` words were certain.

    Args:
        step: `(tokens int (m, beams), state, image) → (logits (m, beams, vocab_size), state)`.
        state: a nest of arrays (rows, ...), before the first word; to the step they are
            (m, beams, ...).
        image: a nest of arrays (rows, ...), which the step is given as they are.
        n: captions wanted, an int or an array (): those of the first rows.
        max_words: words after which a caption ends at the latest.
        beams: beginnings kept at every step.
        length_power: 0 ranks by log-probability alone.
        no_repeat: no run of this many words may occur twice in a caption, and no word twice in a
            row; 0 allows both.
        end_penalty: at least 0, a number or an array ().
        wanted: how many captions must be the best; all of them when None.

    Returns:
        Tokens int32 (rows, beams, max_words), end and padding included, the best caption first,
        and each one's log-probability float32 (rows, beams). Where fewer captions exist, the last
        have a log-probability below `IMPOSSIBLE / 2` and mean nothing.
    """
    last_wanted = (wanted or beams) - 1

    def more(b: _Beams) -> Any:
        return ops.logical_and(b.length < max_words, ops.any(b.log_p > IMPOSSIBLE / 2))

    def advance(b: _Beams) -> tuple[_Beams]:
        # each beginning has one end, so of the best 2 * beams at least `beams` go on
        joint, tokens, state = _next_words(step, b, 2 * beams, no_repeat, end_penalty)
        log_p, chosen = ops.top_k(joint, 2 * beams)
        origin, token = chosen // (ops.shape(joint)[1] // beams), picked(tokens, chosen)
        zero = ops.zeros_like(b.length)
        words = picked(b.words, origin)
        words = ops.slice_update(words, (zero, zero, b.length), token[:, :, None])
        ends = ops.equal(token, END)
        power = ops.power(ops.cast(b.length + 1, "float32"), length_power)
        b = _with_finished(b, words, log_p + end_penalty, log_p / power, ends)
        log_p, kept = ops.top_k(ops.where(ends, IMPOSSIBLE, log_p), beams)
        # what the best beginning would score, were the next words certain
        reach = ops.minimum(ops.cast(b.length + 1 + SURE_WORDS, "float32"), float(max_words))
        hope = log_p[:, :1] / ops.power(reach, length_power)
        log_p = ops.where(hope > b.done_score[:, last_wanted][:, None], log_p, IMPOSSIBLE)
        origin = picked(origin, kept)
        b = b._replace(
            length=b.length + 1,
            words=picked(words, kept),
            log_p=log_p,
            state=keras.tree.map_structure(lambda array: picked(array, origin), state),
        )
        left = narrowed(b.log_p[:, 0] > IMPOSSIBLE / 2, b[2:])
        return (_Beams(b.length, _found(b), *left),)

    (b,) = ops.while_loop(more, advance, (_first_beams(state, image, n, beams, max_words),))
    full = ops.logical_and(b.log_p > IMPOSSIBLE / 2, ops.equal(b.length, max_words))
    score = b.log_p / float(max_words) ** length_power - CUT_OFF
    b = _with_finished(b, b.words, b.log_p, score, full)
    return _found(b)


def _first_beams(state: Any, image: Any, n: Any, beams: int, max_words: int) -> _Beams:
    count = row_count(image)
    rows = ops.arange(count, dtype="int32")
    none = ops.zeros((count, beams), "float32") + IMPOSSIBLE
    words = ops.zeros((count, beams, max_words), "int32")
    # all beams start alike, so only the first may be continued at first
    first = ops.logical_and(rows[:, None] < n, ops.arange(beams)[None] == 0)
    log_p = ops.where(first, 0.0, none)
    state = keras.tree.map_structure(lambda a: ops.repeat(a[:, None], beams, axis=1), state)
    left = rows, words, log_p, words, none, none, state, image
    left = narrowed(rows < n, left, at=1.0)
    return _Beams(ops.convert_to_tensor(0, "int32"), (words, none), *left)


def _next_words(
    step: Step, b: _Beams, count: int, no_repeat: int, end_penalty: Any
) -> tuple[Any, Any, Any]:
    """Return what the beginnings may go on with, and the new state.

    Returns:
        Log-probabilities of the beginnings with each word added, float32 (m, beams * c), the end's
        less `end_penalty`; those words, int32 (m, beams * c); and the state.
    """
    last = ops.take(b.words, ops.maximum(b.length - 1, 0), axis=2)
    logits, state = step(ops.where(b.length == 0, START, last), b.state, b.image)
    words = ops.reshape(b.words, (-1, b.words.shape[2]))
    log_p, tokens = likeliest(
        ops.reshape(logits, (-1, logits.shape[-1])), count, end_penalty=end_penalty,
        barred=_repeats(words, b.length, no_repeat) if no_repeat else None,
    )  # fmt: skip
    m = ops.shape(b.words)[0]
    log_p = log_p + ops.reshape(b.log_p, (-1, 1))
    return ops.reshape(log_p, (m, -1)), ops.reshape(tokens, (m, -1)), state


def _repeats(words: Any, length: Any, run: int) -> Any:
    """Return each word that would complete a run of `run` words a second time, and the last one.

    Args:
        words: int32 (rows, max_words), of which the first `length` are set.
        length: int32 ().
        run: at least 1.

    Returns:
        int32 (rows, max_words - run + 2), `PAD` between them.
    """
    windows = max(words.shape[1] - run + 1, 0)
    repeats = ops.arange(windows)[None] + run - 1 < length  # the run ended before now
    for k in range(run - 1):
        latest = ops.take(words, ops.maximum(length - run + 1 + k, 0), axis=1)
        repeats = ops.logical_and(repeats, ops.equal(words[:, k : k + windows], latest[:, None]))
    last = ops.take(words, ops.maximum(length - 1, 0), axis=1)  # PAD before the first word
    return ops.concatenate([ops.where(repeats, words[:, run - 1 :], PAD), last[:, None]], axis=1)


def _with_finished(b: _Beams, words: Any, log_p: Any, score: Any, ends: Any) -> _Beams:
    """Keep the best of the captions that ended before and of those that `ends` says end now."""
    score = ops.where(ops.logical_and(ends, log_p > IMPOSSIBLE / 2), score, IMPOSSIBLE)
    score, kept = ops.top_k(ops.concatenate([b.done_score, score], axis=1), b.log_p.shape[1])
    return b._replace(
        done_words=picked(ops.concatenate([b.done_words, words], axis=1), kept),
        done_log_p=picked(ops.concatenate([b.done_log_p, log_p], axis=1), kept),
        done_score=score,
    )


def _found(b: _Beams) -> tuple[Any, Any]:
    """Return what was found for all captions, words (n, k, max_words) and log_p (n, k)."""
    real = b.done_score > IMPOSSIBLE / 2
    done = b.done_words, ops.where(real, b.done_log_p, IMPOSSIBLE)
    rows = b.rows[:, None]
    words, log_p = (ops.scatter_update(a, rows, d) for a, d in zip(b.found, done, strict=True))
    return words, log_p


PLAUSIBLE = 0.1  # of the most probable word's probability: the least that may be chosen


def contrasted(decoder: Decoder | Ensemble, features: Any, weight: float) -> tuple[Step, Any, Any]:
    """Return a decoder's step whose words are weighed against what it says of no image.

    A word that is `r` times as probable as with an image that shows what is usual everywhere
    becomes `r ** weight` times as probable; words that are not plausible anyway are left out, or
    odd ones would win (contrastive decoding: Li et al. 2023, "Contrastive Decoding: Open-ended
    Text Generation as Optimization"; the image against none: Leng et al. 2024, "Mitigating Object
    Hallucinations in Large Vision-Language Models through Visual Contrastive Decoding").

    Args:
        decoder: the decoder or decoders.
        features: as `Decoder.start` takes them.
        weight: at least 0.

    Returns:
        As `Decoder.start` does; the step's logits are such log-probabilities, not normalised.
    """
    step, state, image = decoder.start(features)
    blank_step, blank_state, blank = decoder.start(features, blank=True)

    def weighed(tokens: Any, states: Any, images: Any) -> tuple[Any, Any]:
        logits, state = step(tokens, states[0], images[0])
        blank_logits, blank_state = blank_step(tokens, states[1], images[1])
        log_p = ops.log_softmax(logits, axis=-1)
        gained = log_p - ops.log_softmax(blank_logits, axis=-1)
        likely = log_p >= ops.max(log_p, axis=-1, keepdims=True) + math.log(PLAUSIBLE)
        # others stay in order below, for beams that find nothing better
        return ops.where(likely, log_p + weight * gained, log_p - 20.0), (state, blank_state)

    return weighed, (state, blank_state), (image, blank)
