"""Training learns, stops early, and continues after a kill as if nothing had been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.toy_training import SIZES, fresh, run, toy

from roco_caption.core.errors import UserError
from roco_caption.core.machine import detect
from roco_caption.training import loop
from roco_caption.training.captions import CaptionData
from roco_caption.training.checkpoint import STATE, WEIGHTS
from roco_caption.training.loop import evaluate_loss, train


def test_it_learns_and_writes_its_files(tmp_path):
    decoder = fresh()
    history, _ = run(tmp_path, decoder, epochs=25, learning_rate=0.02)
    assert history.val_loss.min() < 0.25 * history.val_loss.iloc[0]
    assert history.learning_rate.iloc[-1] == pytest.approx(0, abs=1e-6)
    assert {WEIGHTS, STATE, "history.csv"} <= set(os.listdir(tmp_path))
    assert pd.read_csv(tmp_path / "history.csv").epoch.tolist() == list(range(1, len(history) + 1))
    assert evaluate_loss(decoder, toy(40, 1)) == pytest.approx(history.val_loss.min(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.tensorflow("its rewriting of graphs")
def test_products_in_bfloat16_train_as_well(tmp_path):
    whole, _ = run(tmp_path / "whole")
    halved, _ = run(tmp_path / "halved", precision="mixed_bfloat16")
    assert np.allclose(halved, whole, rtol=0.02)
    if detect().precision == "mixed_bfloat16":
        assert not np.array_equal(halved, whole)


def test_another_dropout_or_size_is_another_training(monkeypatch):
    signature = loop._signature(fresh().every_word)
    assert loop._signature(fresh().every_word) == signature
    for name, value in (("dropout", 0.3), ("units", 17)):
        monkeypatch.setitem(SIZES, name, value)
        assert loop._signature(fresh().every_word) != signature
        monkeypatch.undo()


def test_loss_counts_words_not_padding(tmp_path):
    decoder = fresh()
    run(tmp_path, decoder, epochs=1)
    data = toy(40, 1)
    wider = CaptionData(data.features, np.pad(data.tokens, ((0, 0), (0, 3))))
    logits = np.asarray(decoder.every_word([data.features.astype("f4"), data.tokens[:, :-1]]))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = data.tokens[:, 1:]
    losses = -np.take_along_axis(log_p, targets[:, :, None], 2)[:, :, 0]
    assert losses[targets == 0].size > 20  # padding, which counting would change the mean by
    assert abs(losses[targets > 0].mean() - losses.mean()) > 0.01
    for some in (data, wider):
        loss = evaluate_loss(decoder, some, 7)
        assert loss == pytest.approx(losses[targets > 0].mean(), rel=1e-4)


def test_a_finished_training_is_reused(tmp_path, capsys, monkeypatch):
    first, weights = run(tmp_path)
    monkeypatch.setattr(loop._Run, "_run_epoch", None)  # nothing may be trained
    again, same = run(tmp_path)
    pd.testing.assert_frame_equal(first, again)
    assert all((a == b).all() for a, b in zip(weights, same, strict=True))
    assert "Reused" in capsys.readouterr().out


def test_early_stopping_keeps_the_best(tmp_path):
    noise = CaptionData(
        toy(96, 0).features, np.random.default_rng(0).permutation(toy(96, 0).tokens)
    )
    decoder = fresh()
    history = train(
        decoder, noise, toy(40, 1), tmp_path, epochs=60, batch_size=16, learning_rate=0.05,
        patience=3,
    )  # fmt: skip
    assert len(history) == history.val_loss.argmin() + 1 + 3 < 60
    assert evaluate_loss(decoder, toy(40, 1)) == pytest.approx(history.val_loss.min(), rel=1e-5)


class _Stop(BaseException):
    pass


@pytest.mark.parametrize("stop_at", [3, pytest.param(14, marks=pytest.mark.slow)])
def test_stopped_anywhere_it_ends_where_an_undisturbed_run_ends(tmp_path, monkeypatch, stop_at):
    undisturbed, weights = run(tmp_path / "whole")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)  # a state after every step
    step, done = loop.Replicas.train_on_batch, []

    def stopping(*arguments):
        done.append(1)
        if len(done) == stop_at:
            raise _Stop
        return step(*arguments)

    monkeypatch.setattr(loop.Replicas, "train_on_batch", stopping)
    with pytest.raises(_Stop):
        run(tmp_path / "stopped")
    monkeypatch.setattr(loop.Replicas, "train_on_batch", step)
    resumed, same = run(tmp_path / "stopped")
    pd.testing.assert_frame_equal(undisturbed, resumed, check_exact=True)
    assert all((a == b).all() for a, b in zip(weights, same, strict=True))


def test_a_killed_process_continues(tmp_path):
    """SIGKILL in the middle; the next process ends with all epochs, as one that was left alone."""
    code = (
        "import sys, time; sys.path[:0] = [{here!r}, {root!r}]\n"
        "from roco_caption.training import loop; from helpers import toy_training\n"
        "loop.SAVE_SECONDS = 0\n"
        "step = loop.Replicas.train_on_batch\n"
        "def slow(*a):\n    print('step', flush=True); time.sleep({wait}); return step(*a)\n"
        "loop.Replicas.train_on_batch = slow\n"
        "toy_training.run({folder!r})\n"
    )
    here = Path(__file__).parents[1]

    def start(wait):
        text = code.format(here=str(here), root=str(here.parent), wait=wait, folder=str(tmp_path))
        return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)

    process = start(0.2)
    for _ in range(11):  # six steps and a validation an epoch: this is in the second
        assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / STATE).exists() and not (tmp_path / "captions.csv").exists()
    with np.load(tmp_path / STATE) as file:
        assert '"finished": false' in str(file["progress"])
    history, weights = run(tmp_path)
    undisturbed, expected = run(tmp_path / "whole")
    pd.testing.assert_frame_equal(history, undisturbed, check_exact=True)
    assert all((a == b).all() for a, b in zip(weights, expected, strict=True))


def test_a_loss_that_is_no_number_stops_and_says_what_to_do(tmp_path):
    bad = toy(96, 0)
    bad.features[3, 2] = np.nan
    with pytest.raises(UserError, match="LEARNING_RATE"):
        train(fresh(), bad, toy(40, 1), tmp_path, epochs=2, batch_size=16)
