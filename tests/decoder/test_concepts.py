"""Words that features can tell are rated by them; what only memory could tell is not."""

import keras
import numpy as np
import pytest

from roco_caption.decoder import concepts
from roco_caption.decoder.concepts import Concepts, fit_concepts, fit_rating_scaler
from roco_caption.decoder.model import build_decoder, fit_scalers
from roco_caption.decoder.ratings import frequent_pairs, presence
from roco_caption.text.tokenizer import START

SEEN, OTHER, RARE = 4, 5, 6


def rated(described, tokens, count=3, **options):
    offset, projection, ratings = fit_concepts(described, tokens, count, **options)
    flat = described.reshape(len(described), -1)
    layer = Concepts(count)
    layer.build(flat.shape)
    layer.set_weights([offset, projection, ratings.words])
    return np.asarray(layer(flat))


def captions(*words):
    """Captions that hold each word where its row of bools says so."""
    rows = [[w if said else 0 for w, said in zip((SEEN, OTHER, RARE), row, strict=False)]
            for row in zip(*words, strict=True)]  # fmt: skip
    rows = [[START, *sorted(row, reverse=True)] for row in rows]
    return np.array([[*row, 0] for row in rows], np.int32)


def test_a_word_that_features_tell_is_rated_and_others_are_not():
    rng = np.random.default_rng(0)
    described = rng.normal(size=(400, 12)).astype(np.float32) + 5
    told = described[:, 3] + 0.3 * rng.normal(size=400) > 5.5
    untold = rng.random(400) > 0.5
    numbers = rng.integers(10, 400, (400, 1)).astype(np.int32)  # no two captions are the same
    tokens = np.hstack([captions(told, untold), numbers])
    found = rated(described, tokens)
    assert np.corrcoef(found[:, 0], told)[0, 1] > 0.7
    assert (found[:, 1:] == 0).all()
    *_, ratings = fit_concepts(described, tokens, 3)
    assert ratings.words.tolist() == [SEEN, 0, 0]
    assert 0.8 < ratings.left_out[:, 0].std() < 1.2 and ratings.r2[0] > 0.5


def test_a_word_that_every_caption_has_is_no_concept():
    rng = np.random.default_rng(0)
    described = rng.normal(size=(200, 6)).astype(np.float32)
    tokens = captions(np.full(200, True), described[:, 0] > 0)
    tokens = np.hstack([tokens, np.arange(10, 210)[:, None]])
    assert fit_concepts(described, tokens, 9)[2].words[:2].tolist() == [OTHER, 0]


def test_each_cell_is_whitened_by_itself():
    """What differs little in one cell is told beside what differs a hundred times as much."""
    rng = np.random.default_rng(0)
    grids = rng.normal(size=(400, 9, 6)).astype(np.float32)
    grids[:, [2, 7]] *= 100
    grids += rng.normal(size=(9, 6)).astype(np.float32)
    told = grids[:, 4, 1] > grids[:, 4, 1].mean()
    tokens = np.hstack([captions(told), rng.integers(10, 400, (400, 1)).astype(np.int32)])
    by_cell = rated(grids, tokens, 1)[:, 0]
    assert np.corrcoef(by_cell, told)[0, 1] > 0.7
    _, projection, ratings = fit_concepts(grids, tokens, 1)
    terms = (grids - grids.mean(axis=0)) * projection.reshape(9, 6)
    assert ratings.words.tolist() == [SEEN] and terms.sum(axis=2).std(axis=0).argmax() == 4


def test_a_whitened_cell_is_white_but_for_the_floor():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 3, 4)) * [30, 10, 3, 0.001]) @ rng.normal(size=(4, 4))
    rows -= rows.mean(axis=0)
    floor = 1e-5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concepts, "FLOOR", floor)
        whitening = concepts._fit_cells(rows)
    white = concepts._by_cells(rows.reshape(500, -1), whitening).reshape(500, 3, 4)
    for cell, before in zip(white.swapaxes(0, 1), rows.swapaxes(0, 1), strict=True):
        variances = np.linalg.eigvalsh(before.T @ before / 500)
        wanted = variances / (variances + floor * variances.mean())
        np.testing.assert_allclose(
            np.linalg.eigvalsh(cell.T @ cell / 500), np.sort(wanted), atol=1e-3
        )


@pytest.mark.parametrize("groups", [[], [np.array([2, 7, 11])]])
def test_errors_left_out_are_those_of_regressions_without_the_images(groups):
    rng = np.random.default_rng(1)
    n, penalty = 30, 0.3
    x = rng.normal(size=(n, 5)) * [3, 2, 1, 1, 0.5]
    y = x @ rng.normal(size=(5, 4)) + rng.normal(size=(n, 4))
    centred, wanted = x - x.mean(axis=0), y - y.mean(axis=0)
    axes, values = concepts.largest_components(centred.astype(np.float64), 5)
    white, variance = centred @ (axes / np.sqrt(values / n)), values / n
    kept = variance / (variance + penalty)
    found = concepts._errors_left_out(white, wanted, white.T @ wanted / n, kept, groups)
    missed = np.empty_like(y)
    alone = [np.array([i]) for i in range(n) if not any(i in group for group in groups)]
    for rows in alone + groups:
        others = np.delete(np.arange(n), rows)
        design = np.hstack([x[others], np.ones((len(others), 1))])
        ridge = design.T @ design + n * penalty * np.diag([1, 1, 1, 1, 1, 0])
        slopes = np.linalg.solve(ridge, design.T @ y[others])
        missed[rows] = y[rows] - np.hstack([x[rows], np.ones((len(rows), 1))]) @ slopes
    np.testing.assert_allclose(found, missed, rtol=1e-6)


def test_images_of_one_caption_do_not_give_each_others_words_away():
    """Pairs of nearly the same image have the same caption, which nothing else foretells."""
    rng = np.random.default_rng(2)
    described = np.repeat(rng.normal(size=(60, 200)), 2, axis=0)
    described = (described + 0.1 * rng.normal(size=described.shape)).astype(np.float32)
    word = np.repeat(rng.random(60) > 0.5, 2)
    numbers = np.repeat(rng.permutation(60) + 10, 2).astype(np.int32)[:, None]
    same = np.hstack([captions(word), numbers])
    assert (rated(described, same, 1) == 0).all()
    differing = np.hstack([same, np.arange(100, 220, dtype=np.int32)[:, None]])
    assert np.abs(rated(described, differing, 1)).max() > 0.1  # as it would be, each left out alone
    names = np.array([f"patient {i}" for i in range(60)], object)
    assert (rated(described, differing, 1, cases=np.repeat(names, 2)) == 0).all()
    # where each image is a case of its own, captions still tell
    assert (rated(described, same, 1, cases=np.arange(120)) == 0).all()


def test_the_decoder_fits_both_kinds_and_does_without_attention_as_well():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 16)).astype(np.float16)
    grids = rng.normal(size=(300, 4, 8)).astype(np.float16)
    lit, side = rng.random(300) > 0.5, rng.random(300) > 0.5
    features[:, 2] += 3 * lit
    grids[:, 3, 5] += 3 * side  # only at this place
    tokens = np.hstack([captions(lit, side), rng.integers(10, 300, (300, 1)).astype(np.int32)])
    sizes = {"vocab_size": 300, "max_len": 6, "feature_size": 16, "components": 16, "units": 8}
    built = build_decoder(**sizes, attention=True, grid_size=(4, 8), grid_components=8, concepts=5)
    fit_scalers(built, (features, grids), tokens)
    layer = built.next_word.get_layer
    by_features = layer("scaler")(features.astype(np.float32))
    assert abs(np.corrcoef(np.asarray(by_features)[:, 0], lit)[0, 1]) > 0.6
    by_grid = layer("concepts_grid")(layer("flat")(layer("scaler_grid")(grids.astype("f4"))))
    assert abs(np.corrcoef(np.asarray(by_grid)[:, 0], side)[0, 1]) > 0.6
    assert built.ratings.words[0] == SEEN and built.ratings.words[16] == OTHER
    plain = build_decoder(**sizes)
    fit_scalers(plain, features, tokens)
    assert not any(layer.name.startswith("concepts") for layer in plain.next_word.layers)


@pytest.mark.parametrize("same", ["images", "captions", "only one", "cases"])
def test_where_all_is_the_same_nothing_is_told(same):
    rng = np.random.default_rng(0)
    described = rng.normal(size=(20, 6)).astype(np.float32)
    tokens = np.array([[START, SEEN + i % 3, 0] for i in range(20)], np.int32)
    if same == "images":
        described[:] = described[0]
    elif same == "captions":
        tokens[:] = tokens[0]
    elif same == "only one":
        described, tokens = described[:1], tokens[:1]
    cases = ["a"] * 20 if same == "cases" else None
    assert (rated(described, tokens, cases=cases) == 0).all()
    grids = described.reshape(len(described), 3, 2)
    assert (rated(grids, tokens, cases=cases) == 0).all()


def examples(n=600, noise=2.0):
    """Images that tell one of two words, with noise, and captions with both at random."""
    rng = np.random.default_rng(3)
    lit, other = rng.random(n) > 0.5, rng.random(n) > 0.5
    described = rng.normal(size=(n, 40)).astype(np.float32)
    described[:, 0] += lit * 4 / noise
    numbers = rng.integers(10, 5000, (n, 1)).astype(np.int32)
    return described, np.hstack([captions(lit, other), numbers]), lit


def test_ratings_left_out_are_as_good_as_those_of_new_images():
    described, tokens, lit = examples()
    old, new = slice(300), slice(300, None)
    offset, projection, ratings = fit_concepts(described[old], tokens[old], 1)
    seen, unseen = ((described[part] - offset) @ projection for part in (old, new))

    def told(rows, part):
        return np.corrcoef(rows[:, 0], lit[part])[0, 1]

    assert told(seen, old) > told(unseen, new) + 0.01  # as they have seen its answer
    assert told(ratings.left_out, old) == pytest.approx(told(unseen, new), abs=0.05)


def test_simulated_ratings_are_like_those_of_images():
    described, tokens, lit = examples()
    *_, ratings = fit_concepts(described, tokens, 1)
    simulated = ratings.simulated(tokens, np.random.default_rng(0))
    for of_word in (lit, ~lit):
        honest, made = ratings.left_out[of_word], simulated[of_word]
        assert made.mean() == pytest.approx(honest.mean(), abs=0.1)
        assert made.std() == pytest.approx(honest.std(), abs=0.1)
    again = ratings.simulated(tokens, np.random.default_rng(0))
    np.testing.assert_array_equal(again, simulated)
    # in texts that hardly ever have the word, it means as much
    rare = np.concatenate([tokens[lit][:20], *[tokens[~lit]] * 10])
    made = ratings.simulated(rare, np.random.default_rng(0))
    told = ratings.left_out[lit].mean() - ratings.left_out[~lit].mean()
    assert made[:20].mean() - made[20:].mean() == pytest.approx(told, rel=0.35)


def test_errors_of_simulated_ratings_go_together_as_they_do_in_images():
    """Two words told by the same thing: where one is rated too high, so is the other."""
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 500)) > 0.5
    described = rng.normal(size=(500, 3)).astype(np.float32)
    described[:, 0] += first * 1.0 + second * 1.0
    tokens = np.hstack([captions(first, second), rng.integers(10, 5000, (500, 1)).astype("i4")])
    *_, ratings = fit_concepts(described, tokens, 2)
    simulated = ratings.simulated(tokens, rng)
    neither = ~first & ~second
    assert np.corrcoef(simulated[neither].T)[0, 1] > 0.8


def test_without_a_word_to_rate_images_are_told_apart_by_their_components():
    rng = np.random.default_rng(0)
    features = rng.gamma(1.0, size=(12, 20)).astype(np.float32)
    tokens = np.array([[START, 10 + i, 0] for i in range(12)], np.int32)
    (offset, projection, longest), ratings = fit_rating_scaler(features, tokens, 16)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(ratings.left_out, (unit - offset) @ projection, atol=1e-4)
    assert not ratings.words.any() and ratings.left_out.std() > 0.5 and longest > 0


def test_presence_counts_no_padding_and_takes_a_term_twice():
    tokens = np.array([[1, 7, 5, 2, 0], [1, 9, 2, 0, 0]], np.int32)
    terms = np.array([[5, 0], [0, 0], [9, 0], [5, 0], [0, 0], [8, 0]], np.int32)
    assert presence(tokens, terms).tolist() == [[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert presence(tokens, np.zeros((3, 2), np.int32)).tolist() == [[0, 0, 0]] * 2


def test_a_pair_is_present_where_both_words_are():
    tokens = np.array([[1, 7, 5, 2, 0], [1, 5, 2, 0, 0], [1, 7, 9, 2, 0]], np.int32)
    terms = np.array([[5, 7], [7, 5], [7, 9], [5, 9], [5, 8]], np.int32)
    assert presence(tokens, terms).T.tolist() == [[1, 0, 0]] * 2 + [[0, 0, 1]] + [[0, 0, 0]] * 2


def test_pairs_are_the_most_frequent_ones_that_no_single_word_tells(monkeypatch):
    words, row = np.array([4, 5, 6, 7], np.int32), np.arange(60)
    said = {4: row < 40, 5: (row >= 20) & (row < 50), 6: row < 10, 7: row >= 30}
    tokens = np.array([[1, *(w if said[w][i] else 0 for w in words)] for i in row], np.int32)
    # 6 never comes without 4, and with none of the others
    assert frequent_pairs(tokens, words).tolist() == [[4, 5], [5, 7], [4, 7]]
    monkeypatch.setattr("roco_caption.decoder.ratings.PAIRED", 2)
    assert frequent_pairs(tokens, words).tolist() == [[4, 5]]
    assert frequent_pairs(tokens, words[:1]).shape == (0, 2)


def test_a_pair_is_rated_that_a_sum_over_words_cannot_tell():
    """A feature is high where a caption has both words or neither."""
    rng = np.random.default_rng(0)
    described = rng.normal(size=(600, 12)).astype(np.float32)
    one, two = rng.random((2, 600)) > 0.5
    described[:, 0] += 3 * one
    described[:, 1] += 3 * two
    described[:, 2] += 6 * (one == two)
    tokens = np.hstack([captions(one, two), rng.integers(10, 600, (600, 1)).astype(np.int32)])
    *_, ratings = fit_concepts(described, tokens, 5)
    assert sorted(map(sorted, ratings.terms.tolist())) == [[0, 0]] * 2 + [
        [0, SEEN], [0, OTHER], [SEEN, OTHER],
    ]  # fmt: skip
    assert ratings.words[2] == 0 and set(ratings.terms[2]) == {SEEN, OTHER}
    both = (one & two).astype(float)
    pair, words = ratings.left_out[:, 2], ratings.left_out[:, :2]
    by_words = words @ np.linalg.lstsq(words, both - both.mean(), rcond=None)[0]
    assert np.corrcoef(pair, both)[0, 1] > np.corrcoef(by_words, both)[0, 1] + 0.02
    # with little to see, pairs are left out before words
    blurred = described + 7 * rng.normal(size=described.shape).astype(np.float32)
    *_, ratings = fit_concepts(blurred, tokens, 5)
    assert set(ratings.words[:2]) == {SEEN, OTHER} and not ratings.terms[2:].any()


def test_regressions_are_fitted_to_whole_cases(monkeypatch):
    monkeypatch.setattr(concepts, "SAMPLE", 20)
    cases = np.repeat(np.arange(30), 3)
    rows = concepts.sampled_cases(90, cases)
    assert len(rows) == 18 and (np.diff(rows) > 0).all()
    assert set(cases[rows]).isdisjoint(np.delete(cases, rows))
    assert concepts.sampled_cases(90, None).tolist() == (np.arange(20) * 90 // 20).tolist()
    assert len(concepts.sampled_cases(90, np.zeros(90))) == 20  # one case
    cases = np.repeat([0, 1, 2, 3], [60, 10, 10, 10])  # the first fits nowhere
    assert set(cases[concepts.sampled_cases(90, cases)]) < {1, 2, 3}
    assert concepts.sampled_cases(9, None).tolist() == [*range(9)]
