"""Which parts of the image speak for a word: as by hand, and right where the truth is known."""

import keras
import numpy as np
import pytest

from roco_caption.core.errors import UserError
from roco_caption.decoder.model import Ensemble, build_decoder, fit_scalers
from roco_caption.decoder.word_maps import WINDOW, upsampled, word_maps
from roco_caption.features.table import LazyRows
from roco_caption.search.captioner import Captioner
from roco_caption.text.tokenizer import CaptionTokenizer

SIDE = 4
LETTERS = "bcdefghijklmnopq"
SIZES = {
    "max_len": 6, "feature_size": 4, "components": 4, "embedding_size": 8, "units": 8,
    "attention": True, "grid_size": (16, 5), "grid_components": 5, "concepts": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def captioner():
    """A decoder of images of which one cell is lit: the caption says which."""
    keras.utils.set_random_seed(0)
    features, texts, _ = lit_images(720, seed=0)
    tokenizer = CaptionTokenizer.fit(texts, min_frequency=1, max_words=5)
    built = build_decoder(vocab_size=tokenizer.vocab_size, **SIZES)
    fit_scalers(built, features, tokenizer.encode(texts))
    return Captioner(built, tokenizer)


def lit_images(count, seed):
    rng = np.random.default_rng(seed)
    lit = np.arange(count) % SIDE**2
    grids = rng.normal(size=(count, SIDE**2, 5)).astype(np.float32) / 4
    grids[np.arange(count), lit, 2] += 3
    features = rng.normal(size=(count, 4)).astype(np.float32)
    # the last word is of no image: captions that are all the same tell no concepts
    texts = [f"lit {LETTERS[k]} shines on{i % 13}x" for i, k in enumerate(lit)]
    return (features, grids), texts, lit


def test_a_words_map_peaks_on_the_cell_that_it_names(captioner):
    features, texts, lit = lit_images(50, seed=1)
    found = word_maps(captioner.decoder, captioner.tokenizer, features, texts)
    assert all(words == text.split() for (words, _), text in zip(found, texts, strict=True))
    maps = np.array([weights for _, weights in found])
    assert maps.shape == (50, 4, SIDE**2)
    assert (maps[:, 1].argmax(axis=1) == lit).mean() > 0.95
    # nothing that is seen speaks for the others: in all captions alike, or at random
    assert (maps[:, [0, 2, 3]] == 0).all() and maps[:, 1].max(axis=1).min() > 0.3


def test_the_terms_add_up_to_the_rating_that_the_decoder_is_told(captioner, monkeypatch):
    """With a window so narrow that each cell keeps its own."""
    monkeypatch.setattr("roco_caption.decoder.word_maps.WINDOW", 0.01)
    (features, grids), texts, lit = lit_images(20, seed=2)
    found = word_maps(captioner.decoder, captioner.tokenizer, (features, grids), texts)
    layer = captioner.decoder.next_word.get_layer
    rated = np.asarray(layer("concepts_grid")(layer("flat")(layer("scaler_grid")(grids))))
    words = list(layer("concepts_grid").get_weights()[2])
    for i, (_, weights) in enumerate(found):
        token = captioner.tokenizer.words.index(LETTERS[lit[i]])
        assert weights[1].sum() == pytest.approx(rated[i, words.index(token)], abs=1e-4)


def test_neighbours_gather_by_a_gaussian(captioner, monkeypatch):
    (features, grids), texts, _ = lit_images(1, seed=3)
    wide = word_maps(captioner.decoder, captioner.tokenizer, (features, grids), texts)[0][1][1]
    monkeypatch.setattr("roco_caption.decoder.word_maps.WINDOW", 0.01)
    each = word_maps(captioner.decoder, captioner.tokenizer, (features, grids), texts)[0][1][
        1
    ].reshape(SIDE, SIDE)
    rows, columns = np.indices((SIDE, SIDE))
    near = np.exp(-((rows - 2) ** 2 + (columns - 1) ** 2) / (2 * WINDOW**2))
    assert wide.reshape(SIDE, SIDE)[2, 1] == pytest.approx((near * each).sum(), abs=1e-4)


def test_any_captions_are_read_from_arrays_grids_and_by_ensembles(captioner):
    (features, grids), _, _ = lit_images(300, seed=4)
    texts = ["lit c", "", "strange b shines lit c", "c c"] * 75
    found = word_maps(captioner.decoder, captioner.tokenizer, (features, grids), texts)
    assert [words for words, _ in found[:4]] == [
        ["lit", "c"], [], ["<unk>", "b", "shines", "lit", "c"], ["c", "c"]
    ]  # fmt: skip
    assert found[1][1].shape == (0, SIDE**2) and not found[2][1][[0, 2, 3]].any()
    np.testing.assert_array_equal(found[3][1][0], found[3][1][1])
    rows = LazyRows(grids.astype(np.float16), np.arange(300), identity="g")
    together = Ensemble([captioner.decoder] * 2)
    for one, same in zip(
        found, word_maps(together, captioner.tokenizer, (features, rows), texts), strict=True
    ):
        assert one[0] == same[0]
        np.testing.assert_allclose(one[1], same[1], atol=0.01)


@pytest.mark.parametrize("less", [{"attention": False}, {"concepts": 0}])
def test_a_decoder_without_attention_or_concepts_tells_no_parts_apart(captioner, less):
    sizes = SIZES | less | {"vocab_size": captioner.tokenizer.vocab_size}
    features, texts, _ = lit_images(2, seed=5)
    with pytest.raises(UserError, match="without attention"):
        word_maps(build_decoder(**sizes), captioner.tokenizer, features, texts)


@pytest.mark.parametrize(("cell", "row", "column"), [(0, 0, 0), (6, 0, 6), (30, 4, 2), (48, 6, 6)])
def test_a_map_peaks_in_its_cell_and_is_smooth(cell, row, column):
    weights = np.full(49, 0.1 / 48, np.float32)
    weights[cell] = 0.9
    heat = upsampled(weights, 256)
    y, x = divmod(int(heat.argmax()), 256)
    assert (y * 7 // 256, x * 7 // 256) == (row, column)
    assert heat.shape == (256, 256) and heat.min() >= 0
    assert np.abs(np.diff(heat, axis=0)).max() < 0.1 > np.abs(np.diff(heat, axis=1)).max()
