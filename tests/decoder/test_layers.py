"""With attention the decoder is still one model, trained on whole captions."""

import keras
import numpy as np
import pytest

from roco_caption.decoder.layers import WORD_BLOCK
from roco_caption.decoder.model import build_decoder, fit_scalers
from roco_caption.decoder.scaler import FeatureScaler, fit_scaler
from roco_caption.features.table import LazyRows
from roco_caption.search.beam import beam_search
from roco_caption.search.greedy import greedy_search, possible
from roco_caption.text.tokenizer import END, PAD, START
from roco_caption.training.captions import CaptionData
from roco_caption.training.loop import train

VOCAB, MAX_LEN, SIZE, GRID = 23, 9, 31, (6, 14)


@pytest.fixture(scope="module")
def decoder():
    keras.utils.set_random_seed(1)
    built = build_decoder(
        vocab_size=VOCAB, max_len=MAX_LEN, feature_size=SIZE, components=8, embedding_size=12,
        units=10, dropout=0.0, image_dropout=0.0, pooled_dropout=0.0, attention=True,
        grid_size=GRID, grid_components=5,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    layer = built.next_word.get_layer
    layer("scaler").set_weights(fit_scaler(rng.normal(size=(60, SIZE)) + 1, 8))
    layer("scaler_grid").set_weights(fit_scaler(rng.normal(size=(60, *GRID)) + 1, 5))
    # untrained, the LSTM says little and the query asks for little
    layer("lstm").cell.kernel.assign(layer("lstm").cell.kernel * 40)
    layer("attention").query.kernel.assign(layer("attention").query.kernel * 5)
    return built


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(5, SIZE)).astype(np.float32)
    grids = rng.normal(size=(5, *GRID)).astype(np.float32)
    tokens = np.zeros((5, MAX_LEN + 1), np.int32)
    for row, words in zip(tokens, (1, 3, 8, 5, 0), strict=True):
        row[: words + 2] = [START, *rng.integers(4, VOCAB, words), END]
    return features, grids, tokens


def test_each_prefix_alone_gives_what_the_whole_caption_gives(decoder, batch):
    features, grids, tokens = batch
    whole = np.asarray(decoder.every_word([features, grids, tokens[:, :-1]]))
    whole = np.exp(whole) / np.exp(whole).sum(-1, keepdims=True)
    for i in range(MAX_LEN):
        prefix = np.zeros((5, MAX_LEN), np.int32)
        prefix[:, : i + 1] = tokens[:, : i + 1]
        going = tokens[:, i] != PAD
        alone = np.asarray(decoder.next_word([features, grids, prefix]))
        np.testing.assert_allclose(alone[going], whole[going, i], atol=1e-5)


def test_stepping_word_by_word_gives_the_training_view(decoder, batch):
    features, grids, tokens = batch
    logits = np.asarray(decoder.every_word([features, grids, tokens[:, :-1]]))
    step, state, image = decoder.start((features, grids))
    state = [array[:, None] for array in state]
    for i in range(MAX_LEN):
        next_word, state = step(tokens[:, i : i + 1], state, image)
        known, beyond = np.split(next_word[:, 0], [logits.shape[2]], axis=1)
        np.testing.assert_allclose(known, logits[:, i], atol=1e-5)
        assert not possible(beyond).any()
        assert next_word.shape[2] % WORD_BLOCK == 0


@pytest.mark.parametrize("search", [greedy_search, beam_search])
def test_each_beam_keeps_its_own_images_cells(decoder, batch, search):
    """The log-probability that decoding added up is the one of its caption read whole."""
    features, grids, _ = batch
    start = decoder.start((features, grids))
    words, log_p = map(np.asarray, search(*start, n=5, max_words=MAX_LEN))
    inputs = np.pad(words, ((0, 0), (1, 0)), constant_values=START)[:, :-1]
    logits = np.asarray(decoder.every_word([features, grids, inputs]))
    every = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(every, words[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose((picked * (words != PAD)).sum(axis=1), log_p, atol=1e-4)


def test_what_it_sees_is_the_mean_of_cells_that_fit_the_words(decoder, batch):
    features, grids, tokens = batch
    layer = decoder.next_word.get_layer
    _, _, (image, cells) = decoder.start((features, grids))
    merged = np.asarray(layer("lstm")(layer("embedding")(tokens[:, :-1])) + image[:, None])
    seen = np.asarray(layer("attention")(merged, cells))
    cells, query = np.asarray(cells), np.asarray(layer("attention").query(merged))
    fit = np.einsum("ntu,ncu->ntc", query, cells) / cells.shape[-1] ** 0.5
    weights = np.exp(fit) / np.exp(fit).sum(axis=-1, keepdims=True)
    assert np.abs(weights[2, 0] - weights[2, 3]).max() > 0.01  # differ from word to word
    by_hand = np.einsum("ntc,ncu->ntu", weights, cells)
    np.testing.assert_allclose(seen, layer("attention").result(by_hand), atol=1e-5)


def test_both_views_share_their_weights(decoder):
    ours = {id(w) for w in decoder.every_word.weights}
    assert ours == {id(w) for w in decoder.next_word.weights}
    layer = decoder.parts.__getitem__
    kinds = "scaler_grid", "cells", "attention"
    assert {id(w) for kind in kinds for w in layer(kind).weights} < ours


def test_the_grid_changes_the_words_and_so_do_its_places(decoder, batch):
    features, grids, tokens = batch
    words = tokens[:, :-1]
    same = np.asarray(decoder.next_word([features, grids, words]))
    for other in (grids[::-1], grids[:, ::-1]):
        assert np.abs(same - np.asarray(decoder.next_word([features, other, words]))).max() > 1e-3


def test_cells_that_show_the_same_differ_by_their_place(decoder):
    (cells,) = np.asarray(decoder.next_word.get_layer("cells")(np.ones((1, GRID[0], 5), "f4")))
    apart = np.abs(cells[:, None] - cells[None]).max(axis=-1)
    assert (apart[~np.eye(GRID[0], dtype=bool)] > 0.01).all()


def test_without_attention_there_is_no_second_image_input():
    plain = build_decoder(vocab_size=VOCAB, max_len=MAX_LEN, feature_size=SIZE, units=10)
    assert [i.name for i in plain.next_word.inputs] == ["input_img", "input_txt"]
    _, _, image = plain.start(np.zeros((2, SIZE), np.float32))
    assert len(image) == 1


def test_scaled_cells_are_white_less_what_is_usual_at_their_place():
    rng = np.random.default_rng(0)
    grids = rng.gamma(1.0, 3.0, (50, 6, 24)) @ rng.normal(size=(24, 24)) ** 2
    grids += rng.normal(size=(6, 24)) * 300  # what all images have there
    scaler = FeatureScaler(7)
    scaler.build((None, 6, 24))
    scaler.set_weights(fit_scaler(grids, 7))
    scaled = np.asarray(scaler(grids.astype(np.float32)))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(scaled.reshape(-1, 7).T, bias=True), np.eye(7), atol=0.02)


def test_it_learns_what_only_the_grid_shows_and_is_reused(tmp_path, capsys):
    """The word names the cell that is lit; the pooled features say nothing of it."""
    rng = np.random.default_rng(0)
    lit = rng.integers(0, 4, 160)
    grids = rng.normal(size=(160, 4, 6)).astype(np.float16) / 4
    grids[np.arange(160), lit, 2] += 3
    tokens = np.stack([[START, 9, 4 + place, END] for place in lit]).astype(np.int32)
    inputs = (
        rng.normal(size=(160, 5)).astype(np.float16),
        LazyRows(grids, np.arange(160), identity="g"),
    )

    def part(start, stop):
        places = np.arange(start, stop)
        return CaptionData((inputs[0][places], inputs[1].take(places)), tokens[places])

    def run(training):
        keras.utils.set_random_seed(0)
        built = build_decoder(
            vocab_size=10, max_len=3, feature_size=5, components=5, embedding_size=8, units=16,
            dropout=0.0, attention=True, grid_size=(4, 6), grid_components=6,
        )  # fmt: skip
        fit_scalers(built, training.features, training.tokens)
        history = train(
            built, training, part(100, 160), tmp_path, epochs=30, batch_size=10,
            learning_rate=0.01, weight_decay=0.0, patience=30,
        )  # fmt: skip
        return built, history

    built, history = run(part(0, 100))
    assert history.val_loss.min() < 0.1 < np.log(4) / 3 < history.val_loss.iloc[0]
    rows = np.arange(100, 160)
    arrays = inputs[0][rows].astype(np.float32), inputs[1][rows], tokens[rows, :-1]
    words = np.asarray(built.every_word(list(arrays)))[:, 1].argmax(axis=1)
    assert (words == 4 + lit[rows]).mean() > 0.9
    run(part(0, 100))
    assert "Reused" in capsys.readouterr().out
    other = CaptionData((inputs[0], LazyRows(grids, np.arange(160), identity="x")), tokens)
    assert part(0, 160).digest() != other.digest()
