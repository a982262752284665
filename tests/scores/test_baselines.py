import tracemalloc

import numpy as np
import pandas as pd
import pytest

from roco_caption.core import backend
from roco_caption.core.errors import UserError
from roco_caption.scores import baselines
from roco_caption.scores.baselines import (
    consensus_captions,
    find_leaks,
    neighbours,
    shuffled,
    shuffled_captions,
)
from roco_caption.text.ngrams import Ngrams, similarities

TRAIN = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3], [5, 0, 0]], np.float16)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_neighbours_in_chunks_are_those_of_all_at_once(k):
    rng = np.random.default_rng(0)
    train = rng.normal(size=(150, 8)).astype(np.float16)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    unit = train / np.linalg.norm(train.astype(float), axis=1, keepdims=True)
    expected = np.argsort(-(queries @ unit.T), axis=1, kind="stable")[:, :k]
    assert (neighbours(train, queries, k, chunk=32) == expected).all()


@pytest.mark.parametrize("k", [1, 7])
def test_many_neighbours_are_found_on_an_accelerator(k, monkeypatch):
    rng = np.random.default_rng(0)
    train, queries = (rng.normal(size=(n, 64)).astype(np.float16) for n in (150, 20))
    expected, products = neighbours(train, queries, k, chunk=32), []

    def product_with(rows):
        product = backend.product_with(rows)
        return lambda others: products.append(others.shape) or product(others)

    monkeypatch.setattr(baselines, "product_with", product_with)
    monkeypatch.setattr(baselines, "has_accelerator", lambda: True)
    neighbours(train, queries, k, chunk=32)
    assert not products  # too few
    monkeypatch.setattr(baselines, "_LARGE", 150 * 20 * 64)
    assert (neighbours(train, queries, k, chunk=32) == expected).all()
    assert products == [(32, 64)] * 4 + [(22, 64)]
    monkeypatch.setattr(baselines, "has_accelerator", lambda: False)
    assert (neighbours(train, queries, k, chunk=32) == expected).all() and len(products) == 5


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_of_equally_near_images_the_first_are_taken(k):
    rng = np.random.default_rng(1)
    train = np.eye(8, dtype=np.float16)[rng.integers(0, 8, 200)]  # 25 of each, exactly equal
    queries = np.concatenate([np.eye(8), np.zeros((1, 8)), np.ones((1, 8))])
    expected = np.argsort(-(queries @ train.T), axis=1, kind="stable")[:, :k]
    assert (neighbours(train, queries, k, chunk=64) == expected).all()
    assert (neighbours(train, queries, k) == expected).all()


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


def test_nearest_is_by_angle_and_ties_go_to_the_first():
    features = np.array([[9, 0, 0], [0.1, 0.2, 0], [0, 0, 0]], np.float64)
    assert neighbours(TRAIN, features, 1).tolist() == [[0], [1], [0]]


def test_consensus_is_the_caption_that_the_others_resemble():
    captions = ["a lone odd text", "chest ct of mass", "chest ct of the mass", "chest ct of fluid"]
    captions += ["an x-ray of the hand"] * 3
    train = np.array([[1, 0]] * 4 + [[0, 1]] * 3, np.float32)
    train[0] = [1, 0.001]  # the odd one is the nearest to the query
    nearest = neighbours(train, np.array([[1, 0.001]]), 4)
    assert captions[nearest[0, 0]] == "a lone odd text"
    assert consensus_captions(captions, nearest, m=3) == ["chest ct of mass"]


def test_equal_captions_have_one_vote_and_none_for_themselves():
    captions = ["the very same long text"] * 3 + ["chest ct", "chest ct scan"]
    chosen = consensus_captions(captions, np.arange(5)[None], m=1)
    assert chosen == ["chest ct"]


def test_consensus_in_blocks_is_that_of_each_image_alone():
    rng = np.random.default_rng(0)
    words = np.array(
        [
            "ct",
            "mri",
            "of",
            "the",
            "chest",
            "knee",
            "shows",
            "a",
            "mass",
            "left",
            "right",
            "lesion",
            "with",
            "no",
        ]
    )
    captions = [" ".join(rng.choice(words, rng.integers(0, 12))) for _ in range(150)]
    captions += captions[:20]
    nearest = np.array([rng.permutation(170)[:5] for _ in range(90)])
    numbers = {word: i for i, word in enumerate(" ".join(words).split())}
    flat = np.array([numbers[word] for caption in captions for word in caption.split()])
    owner = np.repeat(np.arange(170), [len(caption.split()) for caption in captions])
    vectors = Ngrams(flat, owner, 170).vectors(flat, owner, 170)
    for row, chosen in zip(nearest, consensus_captions(captions, nearest), strict=True):
        distinct = np.array(list({captions[i]: i for i in row[::-1]}.values())[::-1])
        similarity = similarities(vectors, distinct, vectors, distinct)
        np.fill_diagonal(similarity, -1)
        agreement = -np.sort(-similarity, axis=1)[:, : max(1, min(4, len(distinct) - 1))]
        best = agreement.mean(axis=1)
        chances = [captions[i] for i in distinct[best > best.max() - 1e-6]]
        assert chosen in chances


@pytest.mark.parametrize("captions", [["only one"], ["same"] * 4, ["", "", "a"]])
def test_consensus_of_next_to_nothing(captions):
    nearest = neighbours(np.ones((len(captions), 2)), np.ones((2, 2)), 5)
    chosen = consensus_captions(captions, nearest)
    assert len(chosen) == 2 and set(chosen) <= set(captions)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_shuffled_moves_every_image(n):
    for seed in range(20):
        order = shuffled(n, seed)
        assert sorted(order) == list(range(n))
        assert (order != np.arange(n)).all()
    assert (shuffled(n, 0) == shuffled(n, 0)).all()
    assert n == 2 or any((shuffled(n, 0) != shuffled(n, seed)).any() for seed in range(1, 5))


@pytest.mark.parametrize(
    "cases",
    [
        ["a", "b", "a", "c", "c", "a", "d", "e"],
        ["a", None, "a", "c", "c", "a", None, "e"],
        [1, "b", 1, "c", "c", 1, None, float("nan")],
    ],
)
def test_shuffled_leaves_the_case(cases):
    cases = np.array(cases, dtype=object)
    for seed in range(20):
        assert (cases[shuffled(8, seed, cases)] != cases).all()


@pytest.mark.parametrize(
    ("cases", "kept"),
    [
        (["CT"] * 8 + ["MR"] * 4, 4),
        (["a"] * 9 + ["b"], 8),
        (["a", "a", "a", "b", "c"], 1),
        (["a", "a"], 2),
        (["a"] * 5, 5),
    ],
)
def test_a_case_of_more_than_half_is_shuffled_as_far_as_possible(cases, kept, capsys):
    cases = np.array(cases)
    for seed in range(20):
        order = shuffled(len(cases), seed, cases)
        assert sorted(order) == list(range(len(cases)))
        assert (order != np.arange(len(cases))).all()
        assert (cases[order] == cases).sum() == kept
    runs = shuffled_captions(list("abcdefghijklmnop")[: len(cases)], cases)
    assert len(runs) == 5
    printed = capsys.readouterr().out
    assert f"{(cases == cases[0]).sum()} of {len(cases)} test images are of one case" in printed


def test_one_image_cannot_be_shuffled_and_two_are_swapped(capsys):
    assert shuffled(1, 0).tolist() == [0]
    assert shuffled_captions(["a"], ["x"]) == []
    assert "NOTE: One test image" in capsys.readouterr().out
    assert shuffled_captions(["a", "b"], ["x", "y"]) == [["b", "a"]] * 5
    assert capsys.readouterr().out == ""


def test_shuffled_needs_a_group_per_image():
    with pytest.raises(UserError, match="2 groups for 3"):
        shuffled(3, 0, ["a", "b"])


def random_splits(**captions):
    rng = np.random.default_rng(4)
    frames = {
        split: pd.DataFrame({"id": range(len(texts)), "caption": texts})
        for split, texts in captions.items()
    }
    features = {
        split: rng.gamma(1.0, size=(len(texts), 600)).astype(np.float16)
        for split, texts in captions.items()
    }
    return frames, features


def test_leaks_count_the_images_and_captions_of_training():
    frames, features = random_splits(
        train=[f"Caption {word}" for word in ("one", "two", "three", "four")] * 10,
        validation=["Something else", "caption TWO.", "Caption two, and more"],
        test=["New"] * 5,
    )
    features["test"][1] = features["train"][7]
    features["test"][3] = features["train"][2] * np.float16(1.02)
    leaks = find_leaks(frames, features)
    assert list(leaks.index) == ["validation", "test"]
    assert list(leaks.loc["validation"]) == [3, 0, 0, 1]
    assert list(leaks.loc["test"]) == [5, 1, 2, 0]


def test_an_image_with_several_captions_leaks_once():
    frames, features = random_splits(train=["One", "Two"], test=["One", "Two", "One", "New"])
    frames["test"]["id"] = ["a", "a", "b", "c"]
    features["test"][:2] = features["train"][0]
    assert list(find_leaks(frames, features).loc["test"]) == [3, 1, 1, 2]


def test_similar_images_do_not_count_as_nearly_the_same():
    frames, features = random_splits(train=["a b"] * 300, test=["c d"] * 50)
    features["test"] += features["train"][:50] // 2  # cosines of about 0.4
    assert find_leaks(frames, features).loc["test", "nearly the same image"] == 0
    assert find_leaks(frames, features, alike=-1.0).loc["test", "nearly the same image"] == 50


@pytest.mark.parametrize(("alike", "spread"), [(0.98, 0.02), (0.9, 0.2), (0.3, 3.0), (-1.0, 0.2)])
def test_nearly_the_same_images_are_those_that_a_full_comparison_finds(alike, spread):
    rng = np.random.default_rng(7)
    centres = rng.gamma(1.0, size=(30, 500))
    images = {"train": 400, "validation": 150, "test": 130}  # more than a block
    features = {
        split: (centres[rng.integers(0, 30, n)] + rng.gamma(spread, size=(n, 500))).astype("f2")
        for split, n in images.items()
    }
    frames = {
        split: pd.DataFrame({"id": range(n), "caption": ["ct"] * n}) for split, n in images.items()
    }
    directions = baselines._directions(features)
    found = find_leaks(frames, features, alike)["nearly the same image"]
    for split in ("validation", "test"):
        largest = (directions[split] @ directions["train"].T).max(axis=1)
        assert found[split] == (largest >= alike).sum()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_neighbours_leave_the_features_as_they_are(dtype):
    train, queries = np.full((3, 4), 2, dtype), np.full((2, 4), 3, dtype)
    neighbours(train, queries, 2)
    assert (train == 2).all() and (queries == 3).all()
