"""Greedy and beam search with a fake step function: no model, no Keras layer."""

import itertools
from functools import partial

import numpy as np
import pytest
from keras import ops

from roco_caption.core.backend import compiled
from roco_caption.search import greedy
from roco_caption.search.beam import Search, beam_candidates, beam_search
from roco_caption.search.greedy import greedy_search, likeliest, possible
from roco_caption.text.tokenizer import END, PAD, SPECIAL, START, UNKNOWN, CaptionTokenizer


def fake_step(n_words: int, seed: int):
    """A step whose logits depend on the two last words, so that the state matters."""
    vocab_size = n_words + 4
    table = np.random.default_rng(seed).normal(size=(vocab_size, vocab_size, vocab_size)) * 2

    def step(tokens, state, image):
        (before,) = state
        logits = ops.take(
            ops.reshape(ops.convert_to_tensor(table, "float32"), (-1, vocab_size)),
            before * vocab_size + tokens,
            axis=0,
        )
        return logits, (tokens,)

    return step, table


def start_state(n: int):
    """The state and the images of n captions."""
    return (ops.full((n,), PAD, "int32"),), ops.zeros((n, 1))


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def log_probability(table, words) -> float:
    total, before, last = 0.0, PAD, START
    for word in words:
        total += log_softmax(table[before, last])[word]
        before, last = last, word
    return total


def all_captions(n_words: int, max_words: int):
    words = range(4, 4 + n_words)
    for length in range(max_words):
        for caption in itertools.product(words, repeat=length):
            yield (*caption, END)


def repeats(caption, run: int) -> bool:
    runs = [caption[i : i + run] for i in range(len(caption) - run + 1)]
    return len(set(runs)) < len(runs) or any(a == b for a, b in itertools.pairwise(caption))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("run", [0, 1, 2])
def test_wide_beam_finds_what_brute_force_finds(seed, run):
    step, table = fake_step(3, seed)
    max_words = 4
    allowed = [c for c in all_captions(3, max_words) if not (run and repeats(c, run))]
    best = max(allowed, key=lambda c: log_probability(table, c) / len(c))
    search = Search(beams=60, no_repeat=run)
    tokens, log_p = beam_search(step, *start_state(1), n=1, max_words=max_words, search=search)
    assert tuple(np.trim_zeros(np.asarray(tokens)[0])) == best
    assert np.asarray(log_p)[0] == pytest.approx(log_probability(table, best), abs=1e-4)


VOCABULARY = [*SPECIAL, "20", "mm", "×", "x", "ray", "by", "of", "5\u2060", "3", "cyst", "in"]


def insisting(caption: str):
    """A step that wants these words again and again, and would rather end than say others."""
    words = [VOCABULARY.index(word) for word in caption.split()]

    def step(tokens, state, image):
        (place,) = state
        wanted = ops.take(ops.convert_to_tensor([*words * 6, END], "int32"), place, axis=0)
        end = ops.one_hot(END, len(VOCABULARY)) * 30
        return ops.one_hot(wanted, len(VOCABULARY)) * 60.0 + end, (place + 1,)

    return step


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ("cyst of 20 mm × 20 mm", "cyst of 20 mm × 20 mm"),
        ("20 mm by 20 mm by 20 mm", "20 mm by 20 mm by 20 mm"),
        ("3 x 3 x 3 mm", "3 x 3 x 3 mm"),
        ("cyst of 5\u2060 mm in ray 5\u2060 mm in", "cyst of 5\u2060 mm in ray 5\u2060 mm in"),
        ("20 mm", "20 mm 20 mm 20"),
        ("x ray of", "x ray of x"),
        ("cyst by", "cyst by cyst"),
    ],
)
def test_measures_may_repeat_but_do_not_stammer(wanted, written):
    tokenizer = CaptionTokenizer(VOCABULARY, 30)
    options = {"n": 1, "max_words": 30, "measures": tokenizer.measures}
    start = (ops.zeros((1,), "int32"),), ops.zeros((1, 1))
    tokens, _ = beam_search(insisting(wanted), *start, **options)
    found = [VOCABULARY[token] for token in np.asarray(tokens)[0] if token > END]
    assert " ".join(found).startswith(written)
    assert len(found) <= max(len(written.split()) + 1, 3 * len(wanted.split()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_the_end_penalty_ranks_captions_but_is_not_in_their_log_probability(seed, penalty):
    step, table = fake_step(3, seed)

    def score(caption):
        return (log_probability(table, caption) - penalty) / len(caption)

    best = max(all_captions(3, 4), key=score)
    search = Search(beams=60, no_repeat=0, end_penalty=penalty)
    tokens, log_p = beam_search(step, *start_state(1), n=1, max_words=4, search=search)
    assert tuple(np.trim_zeros(np.asarray(tokens)[0])) == best
    assert np.asarray(log_p)[0] == pytest.approx(log_probability(table, best), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_wide_beams_rank_all_captions_as_brute_force_does(seed):
    step, table = fake_step(3, seed)
    captions = list(all_captions(3, 4))
    rates = sorted(log_probability(table, c) / len(c) for c in captions)[::-1]
    search = Search(beams=60, no_repeat=0)
    options = {"n": 2, "max_words": 4, "search": search, "needed": 60}
    tokens, log_p = beam_candidates(step, *start_state(2), **options)
    assert tokens.shape == (2, 60, 4) and log_p.shape == (2, 60)
    for rows, values in zip(np.asarray(tokens), np.asarray(log_p), strict=True):
        best = [tuple(np.trim_zeros(row)) for row in rows[:10]]
        assert len(set(best)) == 10
        scores = [log_probability(table, c) / len(c) for c in best]
        assert scores == pytest.approx(rates[:10], abs=1e-4)
        assert values[:10] == pytest.approx([log_probability(table, c) for c in best], abs=1e-4)


def test_with_fewer_captions_than_beams_the_rest_is_impossible():
    step, _ = fake_step(1, 0)
    options = {"n": 1, "max_words": 2, "search": Search(beams=5, no_repeat=0), "needed": 5}
    tokens, log_p = beam_candidates(step, *start_state(1), **options)
    real = np.asarray(possible(log_p))[0]
    assert real.tolist() == [True, True, False, False, False]  # no word, one word
    assert {tuple(row) for row in np.asarray(tokens)[0, :2]} == {(END, 0), (4, END)}


def reference_beam(table, max_words, beams):
    alive, done = [((), 0.0)], []
    for length in range(1, max_words + 1):
        grown = [
            ((*words, word), log_probability(table, (*words, word)))
            for words, _ in alive
            for word in range(len(table))
            if word == END or (word not in (PAD, START, UNKNOWN) and length < max_words)
        ]
        grown = sorted(grown, key=lambda c: -c[1])[: 2 * beams]
        done += [c for c in grown if c[0][-1] == END]
        alive = [c for c in grown if c[0][-1] != END][:beams]
    return max(done, key=lambda c: c[1] / len(c[0]))[0]


def test_narrow_beam_is_textbook_beam_search_and_compiles():
    for seed in range(5):
        step, table = fake_step(6, seed)
        search = compiled(
            lambda start, step=step: beam_search(
                step,
                *start,
                n=3,
                max_words=7,
                search=Search(beams=2, no_repeat=0),
            )
        )
        tokens, _ = search(start_state(3))
        for row in np.asarray(tokens):
            assert tuple(np.trim_zeros(row)) == reference_beam(table, 7, 2)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_argmax_and_stops_at_the_end_token(seed):
    step, table = fake_step(5, seed)
    words, before, last = [], PAD, START
    while len(words) < 12 and last != END:
        row = log_softmax(table[before, last])
        row[[PAD, START, UNKNOWN]] = -np.inf
        before, last = last, int(row.argmax())
        words.append(last)
    words[11:] = [END] if len(words) == 12 else []  # there a caption must end
    tokens, log_p = greedy_search(step, *start_state(2), n=2, max_words=12)
    tokens = np.asarray(tokens)
    assert tokens[0].tolist() == words + [PAD] * (12 - len(words)) == tokens[1].tolist()
    assert np.asarray(log_p)[0] == pytest.approx(log_probability(table, words), abs=1e-4)


def test_captions_of_one_batch_end_at_their_own_end():
    """Caption i ends after i words, which its state counts."""

    def step(tokens, state, image):
        (left,) = state
        word = ops.where(left > 0, 4, END)
        return ops.one_hot(word, 6) * 50.0, (left - 1,)

    start = (ops.arange(4, dtype="int32"),), ops.zeros((4, 1))
    for search in (greedy_search, partial(beam_search, search=Search(no_repeat=0))):
        tokens, _ = search(step, *start, n=4, max_words=9)
        lengths = [row.tolist().index(END) for row in np.asarray(tokens)]
        assert lengths == [0, 1, 2, 3]
        assert all((row[i + 1 :] == PAD).all() for i, row in enumerate(np.asarray(tokens)))


def test_special_tokens_are_never_chosen():
    def step(tokens, state, image):
        logits = np.zeros((*tokens.shape, 6), np.float32)
        logits[..., [PAD, START, UNKNOWN]] = 90
        return ops.convert_to_tensor(logits), state

    for search in (greedy_search, beam_search):
        tokens, _ = search(step, *start_state(2), n=2, max_words=3)
        assert not np.isin(np.asarray(tokens), [START, UNKNOWN]).any()


@pytest.mark.parametrize("beginnings", [1, 3])
@pytest.mark.parametrize(("barred", "penalty"), [(False, 0.0), (True, 1.5)])
@pytest.mark.parametrize("words", [700, 40])
def test_the_likeliest_words_of_a_vocabulary(barred, penalty, beginnings, words):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, beginnings, words)).astype("f") * 3
    logits[:10, :, [PAD, START, END, UNKNOWN]] = 30.0
    log_p = rng.normal(size=(20, beginnings)).astype("f")
    rows = np.argsort(-logits)[:, :, 4:7].astype("int32")
    rows[::2, :, 0] = PAD
    rows[rows == END] = PAD  # an end is never barred
    found = likeliest(
        ops.convert_to_tensor(logits), ops.convert_to_tensor(log_p), 5,
        end_penalty=penalty, barred=ops.convert_to_tensor(rows) if barred else None,
    )  # fmt: skip
    for i, (log_ps, tokens, origins) in enumerate(zip(*map(np.asarray, found), strict=True)):
        expected = np.stack([log_softmax(row.astype(float)) for row in logits[i]])
        expected += log_p[i, :, None]
        expected[:, END] -= penalty
        expected[:, [PAD, START, UNKNOWN]] = -np.inf
        for k in range(beginnings) if barred else ():
            expected[k, rows[i, k]] = -np.inf
        np.testing.assert_allclose(log_ps, expected[origins, tokens], atol=1e-4)
        assert tokens[5:].tolist() == [END] * beginnings
        assert origins[5:].tolist() == list(range(beginnings))
        expected[:, END] = -np.inf
        best = np.argsort(-expected, axis=None)[:5]
        assert (origins[:5] * words + tokens[:5]).tolist() == best.tolist()


def test_barred_words_that_are_all_there_is_are_impossible():
    """A row in which every word is barred still has its end."""
    barred = ops.convert_to_tensor(np.arange(4, 7, dtype="int32")[None, None])
    log_ps, tokens, _ = likeliest(ops.zeros((1, 1, 7)), ops.zeros((1, 1)), 3, barred=barred)
    assert not possible(np.asarray(log_ps)[0, :-1]).any()
    assert np.asarray(tokens)[0, -1] == END


@pytest.mark.tensorflow("elsewhere shapes are fixed")
@pytest.mark.parametrize("search", [greedy_search, beam_search])
def test_dropping_finished_rows_changes_nothing(search, monkeypatch):
    """Rows beyond `n` are padding; captions end at different words, so rows are dropped often."""
    step, _ = fake_step(5, 3)
    tokens = ops.convert_to_tensor(np.arange(40) % 9, "int32")
    start = (tokens,), ops.zeros((40, 1))
    results = {}
    for narrows in (True, False):
        monkeypatch.setattr(greedy, "NARROWS", narrows)
        compiled_search = compiled(lambda start, n: search(step, *start, n=n, max_words=20))
        results[narrows] = [np.asarray(a)[:29] for a in compiled_search(start, np.int32(29))]
    (words, log_p), (expected, expected_p) = results[True], results[False]
    assert len(set((words != PAD).sum(axis=1))) > 2
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_allclose(log_p, expected_p, atol=1e-4)
    alone, _ = search(step, (tokens[7:8],), ops.zeros((1, 1)), n=1, max_words=20)
    np.testing.assert_array_equal(np.asarray(alone)[0], words[7])


@pytest.mark.parametrize("search", [greedy_search, partial(beam_search, search=Search())])
def test_a_caption_ends_even_where_that_is_impossible(search):
    """So nothing is truncated, and there is a caption for every image."""

    def step(tokens, state, image):
        return ops.one_hot(tokens * 0 + 4, 6) * 900.0, state

    tokens, log_p = search(step, *start_state(1), n=1, max_words=3)
    words = np.asarray(tokens)[0].tolist()
    assert words.count(END) == 1 and possible(log_p)[0]
