import numpy as np
import pytest

from roco_caption.scores.table import bootstrap_weights, interval, randomisation_p


def test_every_resample_draws_as_many_as_there_are():
    weights = bootstrap_weights(50, 300, seed=1)
    assert weights.shape == (300, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == bootstrap_weights(50, 300, seed=1)).all()
    assert (weights != bootstrap_weights(50, 300, seed=2)).any()


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=2000)
    means = bootstrap_weights(2000, 2000, seed=0) @ values[:, None] / 2000
    low, high = interval(means)
    error = values.std() / np.sqrt(2000)
    assert (high[0] - values.mean()) / error == pytest.approx(1.96, abs=0.15)
    assert (low[0] - values.mean()) / error == pytest.approx(-1.96, abs=0.15)


def test_p_by_counting_all_tosses():
    # Of the 8 ways to sign three ones, 2 sum to 3 or more in size: p is near 1/4.
    assert randomisation_p(np.ones(3), 20_000, seed=0) == pytest.approx(0.25, abs=0.01)
    assert randomisation_p(np.zeros(3), 100, seed=0) == 1


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    p = [randomisation_p(rng.normal(size=30), 200, seed=i) for i in range(300)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)
