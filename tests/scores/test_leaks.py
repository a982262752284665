"""`leaks`: what the splits share is found, and nothing else."""

import numpy as np
import pandas as pd

from roco_caption.scores.baselines import find_leaks


def splits(**captions):
    rng = np.random.default_rng(4)
    frames = {split: pd.DataFrame({"caption": texts}) for split, texts in captions.items()}
    features = {
        split: rng.gamma(1.0, size=(len(texts), 600)).astype(np.float16)
        for split, texts in captions.items()
    }
    return frames, features


def test_images_and_captions_of_training_are_counted():
    frames, features = splits(
        train=[f"Caption {word}" for word in ("one", "two", "three", "four")] * 10,
        validation=["Something else", "caption TWO.", "Caption two, and more"],
        test=["New"] * 5,
    )
    features["test"][1] = features["train"][7]
    features["test"][3] = features["train"][2] * np.float16(1.02)
    found = find_leaks(frames, features)
    assert list(found.index) == ["validation", "test"]
    assert list(found.loc["validation"]) == [3, 0, 0, 1]
    assert list(found.loc["test"]) == [5, 1, 2, 0]


def test_like_images_are_not_called_the_same():
    frames, features = splits(train=["a b"] * 300, test=["c d"] * 50)
    features["test"] += features["train"][:50] // 2  # cosines of about 0.4
    assert find_leaks(frames, features).loc["test", "nearly the same image"] == 0
    assert find_leaks(frames, features, alike=-1.0).loc["test", "nearly the same image"] == 50
