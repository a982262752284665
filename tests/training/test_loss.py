import keras
import numpy as np
import pytest

from roco_caption.training import loss as losses

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's")


def case(n, t, words, seed=0):
    rng = np.random.default_rng(seed)
    random = keras.initializers.RandomNormal(stddev=0.3, seed=seed)
    dense = keras.layers.Dense(words, kernel_initializer=random, bias_initializer=random)
    dense.build((None, None, 8))
    hidden = tf.constant(rng.normal(size=(n, t, 8)) * 3, tf.float32)
    targets = rng.integers(1, words, (n, t)).astype(np.int32)
    for row, length in zip(targets, rng.integers(0, t + 1, n), strict=True):
        row[length:] = 0
    return dense, hidden, targets, (targets > 0) * rng.random((n, t)).astype(np.float32)


def plain(hidden, dense, targets, weights):
    """Keras' own loss, of all logits at once."""
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    return own(targets, dense(hidden), sample_weight=weights)


def with_gradients(hidden, dense, function):
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        loss = function()
    sources = [hidden, dense.kernel.value, dense.bias.value]
    return [loss, *map(tf.convert_to_tensor, tape.gradient(loss, sources))]


@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize("shape", [(5, 6, 11), (1, 1, 3), (3, 9, 40)])
def test_loss_and_gradients_are_those_of_all_logits_at_once(monkeypatch, rows, shape):
    monkeypatch.setattr(losses, "ROWS", rows)
    monkeypatch.setattr(losses, "LOGITS", 0)
    dense, hidden, targets, weights = case(*shape)

    expected = with_gradients(hidden, dense, lambda: plain(hidden, dense, targets, weights))
    blocks = tf.function(lambda: losses.weighted_loss(hidden, dense, targets, weights, True))
    for ours, theirs in zip(with_gradients(hidden, dense, blocks), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    untrained = losses.weighted_loss(hidden, dense, targets, weights, False)
    np.testing.assert_allclose(untrained, expected[0], rtol=2e-6, atol=1e-6)


def test_captions_without_words_have_no_loss_and_no_gradient():
    dense, hidden, targets, weights = case(2, 3, 5)
    with tf.GradientTape() as tape:
        loss = losses.weighted_loss(hidden, dense, targets * 0, weights * 0, True)
    gradient = tape.gradient(loss, dense.kernel.value)
    assert float(loss) == 0 and not np.any(gradient)


def test_confident_logits_do_not_overflow():
    dense, hidden, targets, weights = case(3, 4, 6)
    dense.set_weights([w * 1000 for w in dense.get_weights()])
    loss, *gradients = with_gradients(
        hidden, dense, lambda: losses.weighted_loss(hidden, dense, targets, weights, True)
    )
    _, *expected = with_gradients(hidden, dense, lambda: plain(hidden, dense, targets, weights))
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6 * np.abs(theirs).max())
    each = -np.take_along_axis(np.asarray(tf.nn.log_softmax(dense(hidden))), targets[..., None], 2)
    assert each.max() > 1000  # a word loses as much as float32 can say of its probability
    expected_loss = (weights * np.minimum(each[..., 0], -np.log(losses.LEAST))).sum()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)


def test_no_operation_holds_the_logits_of_all_words(monkeypatch):
    monkeypatch.setattr(losses, "ROWS", 4)
    monkeypatch.setattr(losses, "LOGITS", 0)
    dense, hidden, targets, weights = case(8, 9, 50)
    function = tf.function(lambda: losses.weighted_loss(hidden, dense, targets, weights, True))
    graph = function.get_concrete_function().graph
    sizes = [t.shape.num_elements() or 0 for o in graph.get_operations() for t in o.outputs]
    assert max(sizes) < 8 * 9 * 50
