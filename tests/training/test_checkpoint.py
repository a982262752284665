"""What training saved is checked before it is used: damaged, it is set aside and made good."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from helpers.toy_training import fresh, run

from roco_caption.core.errors import UserError
from roco_caption.core.pickles import verify
from roco_caption.training import checkpoint, loop
from roco_caption.training.checkpoint import PREVIOUS, STATE, WEIGHTS, Progress, load_best


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
