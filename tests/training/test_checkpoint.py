"""What training saved is checked before it is used: damaged, it is set aside and made good."""

import errno
import json
import math
import os
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from helpers.toy_training import fresh, run

from roco_caption.core import backup
from roco_caption.core.errors import UserError
from roco_caption.core.pickles import verify
from roco_caption.decoder.model import build_decoder
from roco_caption.training import checkpoint, loop
from roco_caption.training.checkpoint import HISTORY, PREVIOUS, STATE, WEIGHTS, Progress, load_best


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished training: its files, history and weights."""
    folder = tmp_path_factory.mktemp("finished")
    history, weights = run(folder, epochs=3)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return files, history, weights


@pytest.fixture
def folder(finished, tmp_path):
    for name, content in finished[0].items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def assert_ends_as(finished, folder):
    history, weights = run(folder, epochs=3)
    pd.testing.assert_frame_equal(history, finished[1], check_exact=True)
    assert all((a == b).all() for a, b in zip(weights, finished[2], strict=True))
    loaded = fresh().every_word
    verify(folder / WEIGHTS)
    loaded.load_weights(folder / WEIGHTS)
    assert all((a == b).all() for a, b in zip(loaded.get_weights(), finished[2], strict=True))
    with np.load(folder / STATE) as file:
        assert verify(folder / WEIGHTS) in str(file["progress"])


@pytest.mark.parametrize("what", ["missing", "flipped", "cut", "of another training"])
def test_weights_that_are_not_the_trainings_are_written_again(
    folder, finished, what, monkeypatch, capsys
):
    path = folder / WEIGHTS
    if what == "missing":
        path.unlink()
    elif what == "flipped":
        flip(path, len(path.read_bytes()) // 2)
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:  # as a kill leaves it between the weights of a new best epoch and their state
        other = Progress({})
        checkpoint.save_best(fresh().every_word, folder, other)
    monkeypatch.setattr(loop._Run, "_run_epoch", None)  # nothing may be trained
    assert_ends_as(finished, folder)
    out = capsys.readouterr().out
    assert f"{WEIGHTS} " in out and "written again" in out
    assert (folder / f"{WEIGHTS}.damaged").exists() == (what == "flipped")


@pytest.mark.parametrize("content", [None, b"", b"epoch,loss\n1,2.0\n", b"\xff\xfe\0"])
def test_a_history_that_is_not_the_trainings_is_written_again(folder, finished, content):
    expected = (folder / HISTORY).read_bytes()
    (folder / HISTORY).unlink() if content is None else (folder / HISTORY).write_bytes(content)
    assert_ends_as(finished, folder)
    assert (folder / HISTORY).read_bytes() == expected


def test_a_damaged_state_gives_way_to_the_one_before_it(folder, finished, monkeypatch, capsys):
    flip(folder / STATE, 3000)
    epochs = []
    run_epoch = loop._Run._run_epoch
    monkeypatch.setattr(
        loop._Run, "_run_epoch", lambda *a: epochs.append(a[1].epoch) or run_epoch(*a)
    )
    assert_ends_as(finished, folder)
    assert epochs == [2]  # the last alone
    out = capsys.readouterr().out
    assert f"set aside as {STATE}.damaged. The one before it is used." in out
    assert (folder / f"{STATE}.damaged").exists()


@pytest.mark.slow
def test_with_both_states_damaged_training_starts_from_scratch(folder, finished, capsys):
    for name in (STATE, PREVIOUS):
        (folder / name).write_bytes(b"")
    assert_ends_as(finished, folder)
    out = capsys.readouterr().out
    assert f"set aside as {PREVIOUS}.damaged. Training starts from scratch." in out


def test_a_kill_between_the_renames_costs_one_save(folder, finished, capsys):
    (folder / STATE).unlink()
    assert_ends_as(finished, folder)
    assert "Resumed the training: 2 epochs done" in capsys.readouterr().out


def test_every_flipped_byte_of_a_state_is_noticed_or_harmless(folder):
    model = compiled(fresh().every_word)
    path = folder / STATE
    whole = path.read_bytes()
    with np.load(path) as file:
        settings = json.loads(str(file["progress"]))["settings"]
    expected, values = checkpoint._read(path, model, settings)
    places = np.random.default_rng(0).choice(len(whole), 300, replace=False)
    places = [*places, *range(150), *range(len(whole) - 150, len(whole))]
    refused = 0
    for place in places:
        path.write_bytes(whole)
        flip(path, place)
        try:
            progress, found = checkpoint._read(path, model, settings)
        except Exception:
            refused += 1
            continue
        assert {**vars(progress), "weights": 0} == {**vars(expected), "weights": 0}
        for one, other in ((found, values), (progress.weights, expected.weights)):
            assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert refused > 300


def compiled(model):
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.1, 10), global_clipnorm=1.0
    )
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    return model


def test_without_any_best_epoch_it_says_so(tmp_path):
    with pytest.raises(UserError, match="LEARNING_RATE"):
        load_best(fresh().every_word, tmp_path, Progress({}))


def test_what_killed_processes_left_is_removed(folder, finished):
    left = folder / f".{STATE}.123-abcdef01.tmp", folder / f".{WEIGHTS}.1-a.tmp.weights.h5"
    for path in left:
        path.write_bytes(b"half")
    assert_ends_as(finished, folder)
    assert not any(path.exists() for path in left)


class Clock:
    """Time that passes only in `sleep`, for a thread that waits as `backed_up` does."""

    def __init__(self):
        self.now, self.stopped, self.until, self.change = 0.0, False, 0.0, threading.Condition()

    def wait(self, seconds):
        with self.change:
            self.until = self.now + seconds
            self.change.notify_all()
            self.change.wait_for(lambda: self.stopped or self.now >= self.until)
            return self.stopped

    def set(self):
        with self.change:
            self.stopped = True
            self.change.notify_all()

    def sleep(self, seconds):
        """Let time pass; what is due meanwhile is done when this returns."""
        with self.change:
            self.now += seconds
            self.change.notify_all()
            assert self.change.wait_for(lambda: self.until > self.now, timeout=30)


def file_sizes(decoder):
    """Return the bytes of the state, of a finished one, and of the weights, without their names."""
    total = sum(math.prod(w.shape) for w in decoder.every_word.weights)
    optimizer = 2 * sum(math.prod(w.shape) for w in decoder.every_word.trainable_weights)
    return [4 * (2 * total + optimizer), 4 * total, 4 * total]


def test_the_sizes_of_a_trainings_files_are_known(tmp_path):
    decoder = build_decoder(vocab_size=2000, max_len=6, feature_size=300)
    model, progress = decoder.every_word, Progress({})
    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    found = []
    for progress.finished in (False, True):
        checkpoint.save_best(model, tmp_path, progress)
        checkpoint.save_state(model, tmp_path, progress)
        found.append((tmp_path / STATE).stat().st_size)
    found.append((tmp_path / WEIGHTS).stat().st_size)
    assert found == pytest.approx(file_sizes(decoder), rel=0.03)


@pytest.mark.parametrize(("attention", "at_most"), [(False, 0.7e9), (True, 0.9e9)])
def test_a_roco_run_copies_less_than_a_gigabyte_to_drive(
    tmp_path, monkeypatch, attention, at_most, record_property
):
    """30 minutes of training with ROCO's vocabulary; the files are 1/1000 of their size."""
    decoder = build_decoder(vocab_size=12_109, max_len=51, attention=attention)
    state, finished_state, weights = (size // 1000 for size in file_sizes(decoder))
    clock, copied = Clock(), []
    imitated = SimpleNamespace(Event=lambda: clock, Thread=threading.Thread)
    monkeypatch.setattr(backup, "threading", imitated)
    copy = backup.shutil.copy2
    monkeypatch.setattr(
        backup.shutil, "copy2", lambda a, b: copied.append(a.stat().st_size) or copy(a, b)
    )
    run, drive = tmp_path / "run", tmp_path / "drive"

    def write(name, size):
        run.mkdir(exist_ok=True)
        (run / name).write_bytes(bytes(size))
        os.utime(run / name, (1e9 + clock.now,) * 2)

    with backup.backed_up(run, drive):
        clock.sleep(0)  # until the thread waits
        for second in range(20, 30 * 60, 20):
            clock.sleep(20)
            write(STATE, state)
            if second % 60 == 0:  # an epoch, better than all before
                write(WEIGHTS, weights)
        write(STATE, finished_state)
    clock.stopped, clock.until = False, 0.0
    with backup.backed_up(run, drive):  # the last cell
        write("consensus.npz", 65_450 * (256 * 2 + 51 * 4) // 1000)
        write("decoder.keras", finished_state)
    traffic = 1000 * sum(copied)
    record_property("bytes copied to Drive", traffic)
    print(f"bytes copied to Drive: {traffic / 1e9:.2f} GB")
    assert 1000 * (2 * (state + weights) + finished_state) < traffic < at_most < 1e9
    assert sum(path.stat().st_size for path in drive.iterdir()) < 0.3e6  # what Drive then holds


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_state_that_cannot_be_read_now_is_not_damaged(folder, finished, monkeypatch, error):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr(checkpoint.np, "load", failing)
    with pytest.raises((UserError, MemoryError)):
        run(folder)
    monkeypatch.undo()
    assert (folder / STATE).exists() and not list(folder.glob("*.damaged"))


def stop_after(epochs):
    def stop(row):
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    return [stop]


def test_a_stop_where_the_weights_are_anothers_leaves_the_state_as_it_was(
    finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1)  # the state knows its weights' file
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, epochs=3, callbacks=stop_after(2))
    with np.load(tmp_path / STATE) as file:
        before = {name: file[name] for name in file.files}
    # as a kill leaves it between the weights of a new best epoch and their state
    checkpoint.save_best(fresh().every_word, tmp_path, Progress({}))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, epochs=3, callbacks=stop_after(2))
    assert "written again" in capsys.readouterr().out
    with np.load(tmp_path / STATE) as file:
        assert all((file[name] == before[name]).all() for name in before)
    assert_ends_as(finished, tmp_path)


def test_a_stop_while_weights_are_saved_leaves_file_and_progress_together(tmp_path, monkeypatch):
    first, progress = fresh().every_word, Progress({})
    checkpoint.save_best(first, tmp_path, progress)
    saved = progress.weights, progress.weights_file
    first.set_weights([weight + 1 for weight in first.get_weights()])

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_prove_room", stopped)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_best(first, tmp_path, progress)
    assert (progress.weights, progress.weights_file) == saved
    assert checkpoint.verify(tmp_path / WEIGHTS) == progress.weights_file
