"""`make benchmark` runs: each stage on a handful of captions, timed by one piece of work."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import __main__ as benchmarks
from benchmarks import rehearsal
from roco_caption.search.captioner import Captioner
from roco_caption.text.tokenizer import CaptionTokenizer


@pytest.fixture
def short(monkeypatch):
    def rate(pieces, seconds=0.0):
        return float(next(iter(pieces)))

    monkeypatch.setattr(benchmarks, "rate", rate)
    monkeypatch.setattr(benchmarks, "EPOCHS", 1)
    monkeypatch.setattr(benchmarks, "BATCHES", (64,))
    monkeypatch.setattr(benchmarks, "PRECISIONS", ("float32", "mixed_bfloat16"))
    monkeypatch.setattr(benchmarks, "matrix_product", lambda precision: 1e11)


@pytest.mark.slow
def test_training_and_decoding_are_measured(short, capsys):
    words = ["chest", "film", "shows", "a", "mass", "left"]
    captions = [" ".join(words[: 2 + i % 5]) for i in range(40)]
    tokenizer = CaptionTokenizer.fit(captions, min_frequency=1, max_words=6)
    tokens = tokenizer.encode(captions)
    features = np.random.default_rng(0).normal(size=(40, 4096)).astype(np.float16)
    sizes = {"vocab_size": tokenizer.vocab_size, "max_len": 7}
    decoder = benchmarks.train(features, tokens, sizes)
    captioner = Captioner(decoder, tokenizer)
    benchmarks.decode(captioner, features, 1e11)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert [row["name"] for row in rows] == [
        "training in float32, batches of 64",
        "training in mixed_bfloat16, batches of 64",
        "greedy decoding",
        "beam of 3 decoding",
    ]
    for row in rows:
        assert {"ours", "classic", "unit", "ratio", "limit", "share_of_limit"} <= set(row)
        assert row["ratio"] == pytest.approx(row["ours"] / row["classic"], rel=1e-2)


def test_experiments_have_names_that_can_be_listed():
    """`ROCO_VARIANTS` and `ROCO_FINAL` are lists with commas."""
    from benchmarks import experiments

    assert {*experiments.NAMES, *experiments.FINAL} <= set(experiments.VARIANTS)
    assert not any("text" in name for name in experiments.NAMES)  # there is no TEXT_FILE


def test_experiments_compare_variants_and_score_the_best(tmp_path, monkeypatch, capsys):
    from benchmarks import experiments

    names = [f"{i}.png" for i in range(24)]
    for name in names:
        Image.new("L", (32, 32), int(name[:-4])).save(tmp_path / name)
    splits = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    captions = [f"axial image number {i % 3} of a mass" for i in range(24)]
    table = pd.DataFrame({"id": names, "caption": captions, "split": splits})
    table.to_csv(tmp_path / "captions.csv", index=False)
    features = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    np.savez(tmp_path / "features.npz", names=np.array(names), features=features)
    for name, value in {
        "DATA_DIR": tmp_path, "FEATURES_FILE": tmp_path / "features.npz",
        "CHECKPOINT_DIR": tmp_path / "runs", "CACHE_DIR": tmp_path / "cache",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ROCO_{name}", str(value))
    monkeypatch.setattr(experiments, "NAMES", ["greedy"])
    monkeypatch.setattr(experiments, "FINAL", ["greedy"])
    monkeypatch.setattr(experiments, "FOLDS", 2)
    monkeypatch.setattr(experiments, "SEEDS", 2)
    experiments.main()
    chosen = pd.read_csv(tmp_path / "runs" / "variants.csv", index_col=0)
    assert list(chosen.index) == ["greedy"] and chosen.perplexity.between(1, 100).all()
    scored = pd.read_csv(tmp_path / "runs" / "final greedy.csv", index_col=0)
    assert {"greedy, 2 seeds", "greedy, ensemble"} <= set(scored.index)
    assert "greedy: perplexity" in capsys.readouterr().out


def test_captions_of_a_rehearsal_differ_and_are_as_long_as_those_given():
    captions = [f"{' '.join('abcdefghijk'[:k])} {i}" for i in range(40) for k in range(1, 11)]
    made = rehearsal.mixed(captions, 2000, np.random.default_rng(0))
    lengths = [np.mean([len(caption.split()) for caption in texts]) for texts in (made, captions)]
    assert len(set(made)) > 1000 and abs(lengths[0] - lengths[1]) < 0.3


@pytest.mark.slow
def test_a_rehearsal_has_every_stage(capsys):
    rehearsal.main(["0.001"])
    result = json.loads(capsys.readouterr().out)
    stages = result["stages"]
    assert {"leaks", "words", "one epoch", "captions", "scores", "slips"} <= stages.keys()
    peaks = [stage["peak_gib"] for stage in stages.values()]
    assert peaks == sorted(peaks) and result["images"]["test"] == 8
    table = rehearsal.as_table([result, result]).splitlines()
    assert {line.count("|") for line in table[: len(stages) + 3]} == {6}
