import numpy as np
import pytest

from roco_caption.core.errors import UserError
from roco_caption.scores.baselines import (
    consensus_captions,
    most_frequent_caption,
    nearest_captions,
    shuffled,
)

TRAIN = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3], [5, 0, 0]], np.float16)
CAPTIONS = ["first", "second", "third", "fourth"]


def test_most_frequent_caption():
    assert most_frequent_caption(["a", "b", "b", "a", "c"], 2) == ["a", "a"]
    with pytest.raises(UserError, match="no training caption"):
        most_frequent_caption([], 2)


def test_nearest_is_by_angle_and_ties_go_to_the_first():
    features = np.array([[9, 0, 0], [0.1, 0.2, 0], [0, 0, 0]], np.float64)
    assert nearest_captions(TRAIN, CAPTIONS, features) == ["first", "second", "first"]


def test_consensus_is_the_caption_that_the_others_resemble():
    captions = ["a lone odd text", "chest ct of mass", "chest ct of the mass", "chest ct of fluid"]
    captions += ["an x-ray of the hand"] * 3
    train = np.array([[1, 0]] * 4 + [[0, 1]] * 3, np.float32)
    train[0] = [1, 0.001]  # the odd one is the nearest to the query
    got = consensus_captions(train, captions, np.array([[1, 0.001]]), k=4, m=3)
    assert nearest_captions(train, captions, np.array([[1, 0.001]])) == ["a lone odd text"]
    assert got == ["chest ct of mass"]


def test_equal_captions_have_one_vote_and_none_for_themselves():
    captions = ["the very same long text"] * 3 + ["chest ct", "chest ct scan"]
    got = consensus_captions(np.ones((5, 2)), captions, np.ones((1, 2)), k=5, m=1)
    assert got == ["chest ct"]


@pytest.mark.parametrize("captions", [["only one"], ["same"] * 4, ["", "", "a"]])
def test_consensus_of_next_to_nothing(captions):
    got = consensus_captions(np.ones((len(captions), 2)), captions, np.ones((2, 2)))
    assert len(got) == 2 and set(got) <= set(captions)


def test_features_that_do_not_match_are_said():
    with pytest.raises(UserError, match="4 training features for 3"):
        nearest_captions(TRAIN, CAPTIONS[:3], TRAIN)
    with pytest.raises(UserError, match="same encoder"):
        consensus_captions(TRAIN, CAPTIONS, np.ones((1, 2)))


@pytest.mark.parametrize("n", [2, 3, 50])
def test_shuffled_moves_every_image(n):
    for seed in range(20):
        order = shuffled(n, seed)
        assert sorted(order) == list(range(n))
        assert (order != np.arange(n)).all()
    assert (shuffled(n, 0) == shuffled(n, 0)).all()
    assert n == 2 or any((shuffled(n, 0) != shuffled(n, seed)).any() for seed in range(1, 5))


def test_shuffled_leaves_the_case_too():
    cases = np.array(["a", "b", "a", "c", "c", "a", "d", "e"])
    for seed in range(20):
        assert (cases[shuffled(8, seed, cases)] != cases).all()


def test_shuffled_says_when_it_cannot():
    with pytest.raises(UserError, match="1 of 1 images"):
        shuffled(1, 0)
    with pytest.raises(UserError, match="3 of 5 images"):
        shuffled(5, 0, ["a", "a", "a", "b", "c"])
