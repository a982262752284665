"""Our LSTM computes what Keras' LSTM computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from roco_caption.decoder import layers
from roco_caption.decoder.model import build_decoder

pytestmark = pytest.mark.tensorflow("the layer is Keras' own elsewhere")


def both(units=6, d=5):
    ours, theirs = layers.LSTM(units), keras.layers.LSTM(units, return_sequences=True)
    for layer in (ours, theirs):
        layer.build((None, None, d))
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in ours.get_weights()]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


def outputs_and_gradients(layer, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
        total = tf.reduce_sum(outputs * upstream)
    variables = [variable.value for variable in layer.trainable_variables]
    return [outputs, *tape.gradient(total, [x, *variables])]


@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 1, 5), (4, 2, 5)])
@pytest.mark.parametrize("compiled", [True, False])
def test_outputs_and_every_gradient_are_those_of_keras(shape, compiled):
    ours, theirs = both()
    rng = np.random.default_rng(2)
    x = tf.constant(rng.normal(size=shape), tf.float32)
    upstream = tf.constant(rng.normal(size=(*shape[:2], 6)), tf.float32)
    found, expected = (
        (tf.function(outputs_and_gradients) if compiled else outputs_and_gradients)(*arguments)
        for arguments in ((ours, x, upstream), (theirs, x, upstream))
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_one_trace_serves_every_length():
    ours, _ = both()
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, 5))])
    def run(x):
        traces.append(x)
        return ours(x)

    assert [run(tf.zeros((2, t, 5))).shape for t in (3, 9)] == [(2, 3, 6), (2, 9, 6)]
    assert len(traces) == 1


def test_a_state_or_a_mask_takes_keras_own_way():
    ours, theirs = both()
    x = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    state = [np.full((2, 6), 0.5, np.float32)] * 2
    mask = np.array([[True, True, False, False], [True] * 4])
    np.testing.assert_allclose(
        ours(x, initial_state=state), theirs(x, initial_state=state), rtol=1e-5
    )
    np.testing.assert_allclose(ours(x, mask=mask), theirs(x, mask=mask), rtol=1e-5)


def test_with_an_accelerator_it_is_keras_layer(monkeypatch):
    ours, _ = both()
    monkeypatch.setattr(layers, "on_tensorflow_cpu", lambda: False)
    monkeypatch.setattr(layers, "_lstm", None)  # calling it would fail
    assert ours(np.zeros((2, 3, 5), np.float32)).shape == (2, 3, 6)


def test_the_decoder_trains_with_it():
    decoder = build_decoder(vocab_size=9, max_len=6, feature_size=8, components=4)
    for view in (decoder.next_word, decoder.every_word):
        assert type(view.get_layer("lstm")) is layers.LSTM
