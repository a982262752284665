"""The nearest rows, whatever the size of the parts that are compared."""

import tracemalloc

import numpy as np
import pytest

from roco_caption.scores.baselines import neighbours


@pytest.mark.parametrize("k", [1, 7, 200])
def test_neighbours_in_chunks_are_those_of_all_at_once(k):
    rng = np.random.default_rng(0)
    train = rng.normal(size=(150, 8)).astype(np.float16)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    unit = train / np.linalg.norm(train.astype(float), axis=1, keepdims=True)
    want = np.argsort(-(queries @ unit.T), axis=1, kind="stable")[:, :k]
    assert (neighbours(train, queries, k, chunk=32) == want).all()


def test_neighbours_hold_a_chunk_not_the_whole_similarity_matrix():
    train, queries = np.ones((20_000, 4), np.float16), np.ones((500, 4), np.float16)
    tracemalloc.start()
    neighbours(train, queries, 1, chunk=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500 * 20_000 * 4 / 2


def test_large_half_precision_features_do_not_overflow():
    train = np.array([[60000, 0], [60000, 60000]], np.float16)
    assert neighbours(train, np.array([[1.0, 1.1]]), 1)[0, 0] == 1
