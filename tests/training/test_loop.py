"""Training learns, stops early, and continues after a kill as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.toy_training import SIZES, fresh, run, toy

from roco_caption.core.errors import OutOfMemory, UserError
from roco_caption.core.machine import detect
from roco_caption.core.pickles import verify
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


@pytest.mark.parametrize(("epochs", "few"), [(33, True), (34, False)])
def test_too_few_steps_are_pointed_out(tmp_path, monkeypatch, capsys, epochs, few):
    monkeypatch.setattr(loop._Run, "go_on", _stop)
    with pytest.raises(_Stop):
        run(tmp_path, epochs=epochs)
    assert ("only 198 steps" in capsys.readouterr().out) == few


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def assert_ends_as(undisturbed, folder, **options):
    """The training in the folder, continued, ends with the same losses and weights."""
    history, weights = run(folder, **options)
    expected, same = undisturbed
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert all((a == b).all() for a, b in zip(weights, same, strict=True))


class _Stop(BaseException):
    pass


def _stop(*_):
    raise _Stop


def _run_out_of_memory():
    raise MemoryError


def _press_stop():
    os.kill(os.getpid(), signal.SIGINT)  # as the notebook's stop button


@pytest.mark.parametrize(
    ("fault", "step", "error", "message"),
    [
        (_stop, 3, _Stop, ""),
        pytest.param(_stop, 14, _Stop, "", marks=pytest.mark.slow),
        (_run_out_of_memory, 9, OutOfMemory, "Out of memory while training.*BATCH_SIZE"),
        (_press_stop, 9, KeyboardInterrupt, ""),
    ],
)
def test_stopped_anywhere_it_ends_where_an_undisturbed_run_ends(
    tmp_path, monkeypatch, undisturbed, fault, step, error, message
):
    train_on_batch, done = loop.Replicas.train_on_batch, []

    def stopping(*arguments):
        done.append(1)
        if len(done) == step:
            fault()
        return train_on_batch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "SAVE_SECONDS", 0)  # a state after every step
        patch.setattr(loop.Replicas, "train_on_batch", stopping)
        with pytest.raises(error, match=message):
            run(tmp_path)
    assert_ends_as(undisturbed, tmp_path)


def test_a_killed_process_continues(tmp_path, undisturbed):
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
        while (line := process.stdout.readline()) != "step\n":
            assert line, "it ended too early"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / STATE).exists() and not (tmp_path / "captions.csv").exists()
    with np.load(tmp_path / STATE) as file:
        assert '"finished": false' in str(file["progress"])
    assert_ends_as(undisturbed, tmp_path)


def test_a_loss_that_is_no_number_stops_and_says_what_to_do(tmp_path):
    bad = toy(96, 0)
    bad.features[3, 2] = np.nan
    with pytest.raises(UserError, match="LEARNING_RATE"):
        train(fresh(), bad, toy(40, 1), tmp_path, epochs=2, batch_size=16)


def test_the_captioners_file_is_written_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    begun, best, saved = [time.monotonic()], [], []
    run_epoch, save_best, save_state = loop._Run._run_epoch, loop.save_best, loop.save_state
    clock = SimpleNamespace(monotonic=lambda: begun[0] + 9 * len(begun))  # seconds of an epoch
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", clock)
        patch.setattr(loop._Run, "_run_epoch", lambda *a: begun.append(0) or run_epoch(*a))
        patch.setattr(loop, "save_best", lambda *a: best.append(a[2].epoch) or save_best(*a))
        patch.setattr(
            loop, "save_state", lambda *a: saved.append((a[2].epoch, a[2].step)) or save_state(*a)
        )
        run(tmp_path, epochs=7)
    assert best == [2, 5, 7]
    assert saved == [(0, 1), *((epoch, 0) for epoch in range(1, 8))]  # one after the first step
    assert_ends_as(run(tmp_path / "every", epochs=7), tmp_path, epochs=7)


def test_stopped_twice_the_best_weights_stay(tmp_path, monkeypatch, capsys, undisturbed):
    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    for _ in range(2):
        decoder = fresh()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, decoder, callbacks=[stop])
        loaded = fresh()
        loaded.every_word.load_weights(tmp_path / WEIGHTS)
        assert decoder.weights_file == verify(tmp_path / WEIGHTS)
        best = undisturbed[0].val_loss[:2].min()
        assert evaluate_loss(loaded, toy(40, 1)) == pytest.approx(best, rel=1e-5)
    assert "another training" not in capsys.readouterr().out
    assert_ends_as(undisturbed, tmp_path)


def test_a_loss_that_is_not_finite_leaves_the_best_weights(tmp_path, monkeypatch):
    step, done = loop.Replicas.train_on_batch, []

    def failing(*arguments):
        done.append(1)
        return step(*arguments) * (float("nan") if len(done) > 14 else 1)

    decoder = fresh()
    with monkeypatch.context() as patch:
        patch.setattr(loop.Replicas, "train_on_batch", failing)
        with pytest.raises(UserError, match=r"in epoch 3\. The best weights so far are kept"):
            run(tmp_path, decoder)
    best = run(tmp_path / "undisturbed")[0].val_loss[:2].min()
    assert decoder.weights_file == verify(tmp_path / WEIGHTS)  # a captioner can be made of it
    assert evaluate_loss(decoder, toy(40, 1)) == pytest.approx(best, rel=1e-5)
