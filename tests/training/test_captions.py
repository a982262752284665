"""What an epoch learns from: every image, and its share of the captions without images."""

import numpy as np
import pytest
from helpers.toy_training import fresh, toy

from roco_caption.core.errors import UserError
from roco_caption.decoder.model import fit_scalers
from roco_caption.decoder.ratings import Ratings
from roco_caption.features.table import arrays_of
from roco_caption.training import captions, loop
from roco_caption.training.captions import CaptionData
from roco_caption.training.loop import train


@pytest.fixture
def data():
    """Ten texts, numbered by their second word, beside forty images."""
    images = toy(40, 0)
    texts = np.array([[1, 4 + i, 2, 0, 0, 0, 0] for i in range(10)], np.int32)
    left_out = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    terms, r2 = np.array([[4, 0], [5, 0], [6, 0]], np.int32), np.full(3, 0.5, "f4")
    ratings = Ratings(left_out, terms, r2, images.tokens, np.arange(40))
    return CaptionData(left_out.astype(np.float16), images.tokens, ratings, texts)


def test_every_text_comes_as_often_and_the_last_epochs_are_for_images(data, monkeypatch):
    assert [data.text_count(0, 1), data.text_count(0, 2), data.text_count(1, 2)] == [10, 10, 0]
    assert sum(data.text_count(epoch, 30) for epoch in range(30)) == 80  # eight passes
    monkeypatch.setattr(captions, "TEXT_PASSES", 6)  # so that epochs begin within passes
    counts = [data.text_count(epoch, 10) for epoch in range(10)]
    assert sum(counts) == 60 and set(counts[:8]) == {7, 8}
    assert counts[8:] == [0, 0]
    seen = []
    for epoch in range(10):
        now = data.of_epoch(epoch, 10, seed=1)
        np.testing.assert_array_equal(now.tokens[:40], data.tokens)
        assert len(now.tokens) == len(arrays_of(now.features)[0]) == 40 + counts[epoch]
        seen += now.tokens[40:, 1].tolist()
    assert sorted(seen) == sorted([*range(4, 14)] * 6)


def test_epochs_are_a_pure_function_of_seed_and_epoch(data):
    first, again = (data.of_epoch(3, 9, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.features[0], again.features[0])
    other = data.of_epoch(1, 9, seed=1)
    assert not np.array_equal(first.tokens[40:], other.tokens[40:])
    assert np.abs(first.features[0][40:48] - other.features[0][40:48]).max() > 0.1  # other errors


def test_texts_have_no_grid(data):
    grids = np.ones((40, 4, 3), np.float16)
    with_grids = CaptionData((data.features, grids), data.tokens, data.ratings, data.texts)
    _, extended = with_grids.of_epoch(0, 9, seed=1).features
    rows = extended[np.array([3, 41, 0, 49])]
    assert rows.mean(axis=(1, 2)).tolist() == [1, 0, 1, 0]
    assert (extended[np.array([45, 44])] == 0).all()


def test_texts_make_another_training(data):
    without = CaptionData(data.features, data.tokens, data.ratings)
    other = CaptionData(data.features, data.tokens, data.ratings, data.texts[:5])
    assert len({part.digest() for part in (data, without, other)}) == 3


def test_other_ratings_and_passes_make_another_training(data, monkeypatch):
    decoder, images = fresh(), CaptionData(data.features, data.tokens, data.ratings)
    first = {name: loop.identify(decoder, d, d) for name, d in (("text", data), ("none", images))}
    monkeypatch.setattr(captions, "TEXT_PASSES", 9)
    assert loop.identify(decoder, data, data) != first["text"]
    assert loop.identify(decoder, images, images) == first["none"]
    monkeypatch.setattr(loop, "RATINGS_VERSION", 99)
    assert loop.identify(decoder, images, images) != first["none"]


def told_by_text(n: int, seed: int):
    """Images of which a feature tells one of two words; three more follow at random."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 5)).astype(np.float16)
    features[:, 0] += 3 * (word := rng.integers(0, 2, n))
    tokens = np.zeros((n, 7), np.int32)
    tokens[:, :2] = np.stack([np.ones(n), 4 + word], axis=1)
    tokens[:, 2:6] = np.pad(rng.integers(6, 10, (n, 3)), ((0, 0), (0, 1)), constant_values=2)
    return features, tokens, word


@pytest.mark.tensorflow("captions without images")
def test_a_decoder_learns_from_texts_what_images_do_not_show(tmp_path, monkeypatch):
    """In the texts each of the words is followed by one that no image's caption has."""
    monkeypatch.setattr(captions, "TEXT_EPOCHS", 1)  # so that the images do not undo it
    decoder = fresh()
    features, tokens, word = told_by_text(200, 0)
    texts = np.array([[1, 4 + i % 2, 10 + i % 2, 2, 0, 0, 0] for i in range(100)], np.int32)
    fit_scalers(decoder, features, tokens)
    held = CaptionData(*told_by_text(50, 1)[:2])
    learn = CaptionData(features, tokens, decoder.ratings, texts)
    options = {"batch_size": 16, "learning_rate": 0.02, "weight_decay": 0.01, "seed": 1}
    history = train(decoder, learn, held, tmp_path, epochs=10, **options)
    assert len(history) == 10  # no early stop while texts come
    rows = np.array([[1, 4, 0, 0, 0, 0], [1, 5, 0, 0, 0, 0]], np.int32)
    p = np.asarray(decoder.next_word([features[[word.argmin(), word.argmax()]].astype("f4"), rows]))
    assert p[0, 10] > 2 * p[0, 11] and p[1, 11] > 2 * p[1, 10]
    start = np.array([[1, 0, 0, 0, 0, 0]] * 50, np.int32)
    p = np.asarray(decoder.next_word([held.features.astype("f4"), start]))
    right = p[:, 4:6].argmax(axis=1) == told_by_text(50, 1)[2]
    assert right.mean() > 0.85  # and the image still decides


@pytest.mark.tensorflow("captions without images")
def test_stopped_among_texts_training_ends_as_if_undisturbed(tmp_path, monkeypatch):
    features, tokens, _ = told_by_text(60, 0)
    texts = np.array([[1, 4 + i % 2, 10 + i % 2, 2, 0, 0, 0] for i in range(45)], np.int32)
    held = CaptionData(*told_by_text(30, 1)[:2])
    options = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "seed": 1}

    def started(folder, stop_at=None):
        decoder = fresh()
        fit_scalers(decoder, features, tokens)
        learn = CaptionData(features, tokens, decoder.ratings, texts)

        def stop(row):
            if row["epoch"] == stop_at:
                raise KeyboardInterrupt

        try:
            train(decoder, learn, held, folder, callbacks=[stop], **options)
        except KeyboardInterrupt:
            return started(folder)
        return decoder.every_word.get_weights()

    for whole, resumed in zip(started(tmp_path / "a"), started(tmp_path / "b", 1), strict=True):
        np.testing.assert_array_equal(whole, resumed)


def test_texts_need_tensorflow(data, monkeypatch):
    monkeypatch.setattr(captions.keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="TEXT_FILE"):
        data.rated(None)
