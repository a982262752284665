"""The second loss moves what the image tells, and shows in no figure."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from roco_caption.mentions import missed
from roco_caption.model import build_captioning
from roco_caption.text import END, PAD, START, UNKNOWN

TOKENS = np.array([[START, 5, 7, 5, 5, END], [START, 6, UNKNOWN, END, PAD, PAD]], np.int32)


def test_it_is_the_binary_cross_entropy_of_the_words_that_are_there():
    scores = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    there = np.zeros((2, 9), np.float32)
    there[0, [5, 7]] = there[1, 6] = 1
    expected = tf.nn.sigmoid_cross_entropy_with_logits(there, scores).numpy().sum(axis=1)
    found = np.asarray(missed(scores, TOKENS))
    np.testing.assert_allclose(found, expected / [4, 1], rtol=1e-5)


def test_a_caption_without_words_is_no_division_by_zero():
    found = np.asarray(missed(np.zeros((1, 9), np.float32), np.array([[START, END]], np.int32)))
    assert found == pytest.approx(9 * np.log(2))


def build(mentions, attention=False):
    keras.utils.set_random_seed(0)
    sizes = {"vocab_size": 9, "max_len": 6, "feature_size": 5, "components": 5, "units": 4}
    if attention:
        sizes |= {"attention": True, "grid_size": (4, 3), "grid_components": 3, "concepts": 0}
    return build_captioning(
        embedding_size=3, dropout=0, image_dropout=0, mentions=mentions, **sizes
    )


@pytest.mark.tensorflow("its gradient tape")
@pytest.mark.parametrize("attention", [False, True])
def test_its_gradient_is_added_and_its_value_is_not(attention):
    rng = np.random.default_rng(1)
    inputs = [rng.normal(size=(2, 5)).astype(np.float32), TOKENS]
    if attention:
        inputs.insert(1, rng.normal(size=(2, 4, 3)).astype(np.float32))
    model = build(2.0, attention).every_word
    image, scores = model.get_layer("image"), model.get_layer("mentions").scores
    with tf.GradientTape(persistent=True) as tape:
        model(inputs, training=True)
        value = sum(model.losses)
        direct = tf.reduce_mean(missed(scores(image(model.get_layer("scaler")(inputs[0]))), TOKENS))
    assert float(value) == 0
    weights = [image.kernel.value, scores.kernel.value]
    for ours, expected in zip(
        tape.gradient(value, weights), tape.gradient(direct, weights), strict=True
    ):
        np.testing.assert_allclose(ours, 2 * expected, rtol=1e-4, atol=1e-7)
        assert np.abs(ours).max() > 0
    model(inputs, training=False)
    assert not model.losses


def test_without_it_nothing_is_there():
    with pytest.raises(ValueError, match="mentions"):
        build(0).every_word.get_layer("mentions")
    with_it, without = build(1.0), build(0)
    shared = {w.path for w in with_it.next_word.weights}
    assert shared == {w.path for w in without.next_word.weights}


def test_it_learns_what_an_image_mentions():
    """With words that mean nothing, the image's vector still learns the caption's words."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(64, 5)).astype(np.float32)
    words = 4 + features.argmax(axis=1)
    tokens = np.stack([np.full(64, START), words, np.full(64, END)], axis=1).astype(np.int32)
    model = build(1.0).every_word
    as_it_is = np.zeros(5, "f4"), np.eye(5, dtype="f4"), np.float32(1e9)
    model.get_layer("scaler").set_weights(as_it_is)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=False)
    for _ in range(150):
        model.train_on_batch([features, tokens[:, :2]], tokens[:, 1:], np.zeros((64, 2), "f4"))
    image = model.get_layer("image")(model.get_layer("scaler")(features))
    found = np.asarray(model.get_layer("mentions").scores(image)).argmax(axis=1)
    assert (found == words).mean() > 0.9
