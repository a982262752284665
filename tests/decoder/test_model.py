"""The two views are one model, and whole-caption training is the classic training, done once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from roco_caption.decoder import scaler as scaling
from roco_caption.decoder.layers import WORD_BLOCK
from roco_caption.decoder.model import build_decoder
from roco_caption.decoder.scaler import FeatureScaler, fit_scaler
from roco_caption.search.greedy import greedy_search, possible
from roco_caption.text.tokenizer import END, PAD, START, UNKNOWN

VOCAB, MAX_LEN, SIZE = 23, 9, 31


@pytest.fixture(scope="module")
def decoder():
    keras.utils.set_random_seed(1)
    built = build_decoder(
        vocab_size=VOCAB, max_len=MAX_LEN, feature_size=SIZE, components=8, embedding_size=12,
        units=10, dropout=0.0, image_dropout=0.0,
    )  # fmt: skip
    features = np.random.default_rng(0).normal(size=(60, SIZE)) + 1
    built.next_word.get_layer("scaler").set_weights(fit_scaler(features, 8))
    return built


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(5, SIZE)).astype(np.float32)
    tokens = np.zeros((5, MAX_LEN + 1), np.int32)
    for row, words in zip(tokens, (1, 3, 8, 5, 0), strict=True):
        row[: words + 2] = [START, *rng.integers(4, VOCAB, words), END]
    return features, tokens


def test_the_table_that_users_know(decoder):
    model = decoder.next_word
    assert model.name == "image_captioning"
    assert {layer.name for layer in model.layers} >= {
        "input_img", "input_txt", "embedding", "lstm", "dense",
    }  # fmt: skip
    table = build_decoder(vocab_size=500, max_len=51).next_word
    assert {i.name: i.shape for i in table.inputs} == {
        "input_img": (None, 4096),
        "input_txt": (None, 51),
    }
    assert table.output_shape == (None, 500)
    assert table.get_layer("embedding").output.shape[-1] == 256
    assert table.get_layer("lstm").units == 256


def test_both_views_share_their_weights(decoder):
    ours = {id(w) for w in decoder.every_word.weights}
    assert ours == {id(w) for w in decoder.next_word.weights}


def _prefixes(features, tokens):
    """The classic data set: one sample for each word that follows a prefix."""
    images, prefixes, targets = [], [], []
    for image, row in zip(features, tokens, strict=True):
        for i in range(1, int((row != PAD).sum())):
            prefix = np.zeros(MAX_LEN, np.int32)
            prefix[:i] = row[:i]
            images.append(image)
            prefixes.append(prefix)
            targets.append(row[i])
    return np.array(images), np.array(prefixes), np.array(targets)


@pytest.mark.tensorflow("its gradient tape")
def test_whole_captions_train_what_one_sample_per_prefix_trains(decoder, batch):
    features, tokens = batch
    images, prefixes, targets = _prefixes(features, tokens)
    with tf.GradientTape() as tape:
        probabilities = decoder.next_word([images, prefixes], training=False)
        picked = tf.gather(probabilities, targets, batch_dims=1)
        classic_loss = -tf.reduce_mean(tf.math.log(picked))
    classic = tape.gradient(classic_loss, decoder.next_word.trainable_variables)
    with tf.GradientTape() as tape:
        logits = decoder.every_word([features, tokens[:, :-1]], training=True)
        losses = keras.losses.sparse_categorical_crossentropy(
            tokens[:, 1:], logits, from_logits=True
        )
        real = (tokens[:, 1:] != PAD).astype(np.float32)
        loss = tf.reduce_sum(losses * real) / real.sum()
    ours = tape.gradient(loss, decoder.next_word.trainable_variables)
    assert len(targets) == real.sum()
    assert float(loss) == pytest.approx(float(classic_loss), rel=1e-5)
    for mine, theirs in zip(
        map(tf.convert_to_tensor, ours), map(tf.convert_to_tensor, classic), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)
        assert np.abs(mine).max() > 0


def test_what_stands_right_of_the_end_changes_nothing(decoder, batch):
    features, tokens = batch
    short = np.asarray(decoder.every_word([features[:2], tokens[:2, :5]]))
    long = np.asarray(decoder.every_word([features[:2], tokens[:2, :-1]]))
    np.testing.assert_allclose(short, long[:, :5], atol=1e-6)


def test_stepping_word_by_word_gives_the_training_view(decoder, batch):
    features, tokens = batch
    logits = np.asarray(decoder.every_word([features, tokens[:, :-1]]))
    step, state, image = decoder.start(features)
    state = [array[:, None] for array in state]
    for i in range(MAX_LEN):
        next_word, state = step(tokens[:, i : i + 1], state, image)
        known, beyond = np.split(next_word[:, 0], [logits.shape[2]], axis=1)
        np.testing.assert_allclose(known, logits[:, i], atol=1e-5)
        assert not possible(beyond).any()
        assert next_word.shape[2] % WORD_BLOCK == 0


def test_greedy_search_is_the_classic_loop(decoder, batch):
    features = batch[0]
    tokens, _ = greedy_search(*decoder.start(features), n=len(features), max_words=MAX_LEN)
    for image, row in zip(features, np.asarray(tokens), strict=True):
        prefix = [START]
        while len(prefix) <= MAX_LEN and prefix[-1] != END:
            padded = np.zeros((1, MAX_LEN), np.int32)
            padded[0, : len(prefix)] = prefix
            p = decoder.next_word.predict([image[None], padded], verbose=0)[0]
            p[[PAD, START, UNKNOWN]] = 0
            prefix.append(int(p.argmax()) if len(prefix) < MAX_LEN else END)  # the last place
        assert row[row != PAD].tolist() == prefix[1:]


def test_the_image_changes_the_words(decoder, batch):
    features, tokens = batch
    one = np.asarray(decoder.next_word([features, tokens[:, :-1]]))
    other = np.asarray(decoder.next_word([features[::-1], tokens[:, :-1]]))
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(("n", "size"), [(40, 120), (300, 24)])
def test_scaled_features_are_white_on_the_training_images(n, size):
    rng = np.random.default_rng(0)
    features = rng.gamma(1.0, 3.0, (n, size)) @ rng.normal(size=(size, size)) ** 2
    scaler = FeatureScaler(16)
    scaler.build((None, size))
    scaler.set_weights(fit_scaler(features, 16))
    scaled = np.asarray(scaler(features.astype(np.float32)))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(scaled.T, bias=True), np.eye(16), atol=0.02)


def test_many_features_are_scaled_as_by_all_eigenvectors(monkeypatch):
    """Above 1,024 features only the wanted components are looked for, and they are the same."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(1500, 60)) * np.geomspace(1, 0.1, 60) @ rng.normal(size=(60, 1100))
    features = wide + rng.normal(size=(1500, 1100)) * 0.5
    _, fast, _ = fit_scaler(features, 16)
    calls = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(scaling, "_largest", lambda m, k: calls.append(m.shape) or tuple(
        a[..., ::-1][..., :k] for a in eigh(m)
    ))  # fmt: skip
    _, slow, _ = fit_scaler(features, 16)
    assert calls == [(1100, 1100)]
    cosine = (fast * slow).sum(0) / np.linalg.norm(fast, axis=0) / np.linalg.norm(slow, axis=0)
    assert np.abs(cosine).min() > 0.999
    np.testing.assert_allclose(
        np.linalg.norm(fast, axis=0), np.linalg.norm(slow, axis=0), rtol=1e-3
    )


def test_nearly_dead_units_do_not_drown_the_others():
    rng = np.random.default_rng(0)
    features = rng.gamma(2.0, 1.0, (200, 50))
    features[:, :20] = rng.normal(size=(200, 20)) * 1e-6
    features[:, 20] = 0
    offset, projection, _ = fit_scaler(features, 20)
    unseen = rng.gamma(2.0, 1.0, (50, 50))
    unseen /= np.linalg.norm(unseen, axis=1, keepdims=True)
    unseen[:, :21] = 1e-4  # a hundred times what they were in training
    assert np.isfinite(projection).all()
    assert np.abs((unseen - offset) @ projection).max() < 12


def test_fewer_images_than_components():
    offset, projection, _ = fit_scaler(np.random.default_rng(0).normal(size=(5, 30)), 16)
    assert projection.shape == (30, 16) and np.isfinite(projection).all()
    assert (projection[:, 5:] == 0).all() and offset.shape == (30,)


def test_every_layer_is_rebuilt_from_its_config():
    decoder = build_decoder(vocab_size=9, max_len=6, feature_size=8, components=4)
    model = decoder.next_word
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    inputs = [np.ones((2, 8), np.float32), np.array([[1, 5, 4, 0, 0, 0]] * 2)]
    np.testing.assert_allclose(again(inputs), model(inputs), rtol=1e-5)
    assert not again.get_layer("scaler").trainable_weights


def test_an_image_unlike_all_others_gets_no_longer_vector_than_they():
    rng = np.random.default_rng(0)
    # most directions hardly vary in training: along them a stranger is far away
    features = (10 + rng.normal(size=(200, 40)) * np.geomspace(3, 0.05, 40)).astype(np.float32)
    scaler = FeatureScaler(16)
    scaler.build(features.shape)
    offset, projection, longest = fit_scaler(features, 16)
    scaler.set_weights([offset, projection, np.float32(1e9)])
    free, stranger = np.asarray(scaler(features)), rng.gamma(0.3, size=(1, 40)).astype(np.float32)
    away = np.asarray(scaler(stranger))[0]
    scaler.set_weights([offset, projection, longest])
    np.testing.assert_array_equal(np.asarray(scaler(features)), free)
    held = np.asarray(scaler(stranger))[0]
    assert np.linalg.norm(away) > 2 * longest
    np.testing.assert_allclose(np.linalg.norm(held), longest, rtol=1e-4)
    np.testing.assert_allclose(held / np.linalg.norm(held), away / np.linalg.norm(away), atol=1e-5)
