"""Two devices and two processes train as one device does; killed, they continue where they were."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import toy_features, toy_training
from helpers.toy_training import fresh, toy

from roco_caption.core.errors import UserError
from roco_caption.features import extract
from roco_caption.text.tokenizer import PAD
from roco_caption.training.batches import Replicas, cut
from roco_caption.training.checkpoint import Progress, variables_of
from roco_caption.training.loop import train

pytestmark = pytest.mark.tensorflow("its strategies")
PROCESS = str(Path(__file__).parents[1] / "helpers" / "replica_process.py")


def start(*arguments):
    command = [sys.executable, PROCESS, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_two(folder, *arguments):
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = ",".join(str(one.getsockname()[1]) for one in sockets)
    for one in sockets:
        one.close()
    return [start("machines", folder, rank, ports, *arguments) for rank in range(2)]


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """Losses of the training that the processes run, on one device; without dropout."""
    folder, sizes = tmp_path_factory.mktemp("one"), dict(toy_training.SIZES)
    toy_training.SIZES.update(dropout=0.0, image_dropout=0.0)
    options = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02}
    history = train(fresh(), toy(97, 0), toy(41, 1), folder, **options)
    toy_training.SIZES.clear()
    toy_training.SIZES.update(sizes)
    return history


def assert_alike(path, history):
    found = pd.read_csv(path, index_col="epoch")
    pd.testing.assert_frame_equal(found, history, check_exact=False, rtol=1e-5)


@pytest.mark.slow
def test_two_devices_train_and_encode_as_one_does(tmp_path, on_one_device, monkeypatch):
    finish(start("mirrored", tmp_path))
    assert_alike(tmp_path / "plain-0.csv", on_one_device)
    monkeypatch.setattr(extract, "build_encoder", toy_features.tiny_encoder)
    images = toy_features.make_images(tmp_path / "images", 22)
    one = toy_features.extract(images, tmp_path / "one", with_grid=True)
    monkeypatch.setattr(extract, "build_encoder", None)  # two devices made them all
    two = toy_features.extract(images, tmp_path, with_grid=True)
    assert two.ids == one.ids and (two.matrix == one.matrix).all()
    assert (two.grid[:] == one.grid[:]).all()


@pytest.mark.slow
def test_two_processes_train_as_one_and_continue_after_a_kill(tmp_path, on_one_device):
    finish(*start_two(tmp_path, "plain", "whole"))
    for rank in range(2):
        assert_alike(tmp_path / f"plain-{rank}.csv", on_one_device)
    first, second = start_two(tmp_path, "slow")
    for _ in range(12):  # seven steps and a validation an epoch: this is in the second
        while "step" not in (line := second.stdout.readline()):
            assert line, "it ended too early"
    second.send_signal(signal.SIGKILL)
    try:
        first.communicate(timeout=60)  # what it shared is gone, so that it ends with an error
    except subprocess.TimeoutExpired:
        first.kill()
    assert first.wait() and not (tmp_path / "killed-0.csv").exists()
    with np.load(tmp_path / "killed" / "training_state.npz") as file:
        assert json.loads(str(file["progress"]))["epoch"] == 1
    finish(*start_two(tmp_path, "killed"))
    whole = (tmp_path / "whole-0.csv").read_text()
    for name in ("whole-1", "killed-0", "killed-1"):  # dropout's state included
        assert (tmp_path / f"{name}.csv").read_text() == whole


def test_the_parts_of_a_batch_are_the_batch():
    captions, rows = toy(40, 0), np.arange(3, 20)
    tokens, targets = cut(captions.tokens[rows])
    parts = []
    for rank in range(3):
        part = Replicas.__new__(Replicas)
        part.rank, part.count, part.local, part.multiple = rank, 6, 2, 1
        parts.append(part.batch(captions.features, captions.tokens, rows))
        assert parts[-1][1] == (targets != PAD).sum()
        assert len(parts[-1][0][1]) == 6  # 3 for each of two devices
    joined = [np.concatenate(arrays) for arrays in zip(*(p[0][0] for p in parts), strict=True)]
    assert (joined[0][:17] == captions.features[rows]).all() and (joined[1][:17] == tokens).all()
    of_all = np.concatenate([part[0][1] for part in parts])
    assert (of_all[:17] == targets).all() and (of_all[17:] == PAD).all()


def test_machines_with_other_settings_are_told():
    replicas = Replicas(fresh())
    replicas.rank, replicas.count, replicas.chief = 1, 2, False
    text = json.dumps(vars(Progress({"epochs": 3}))).encode()
    replies = [np.array([len(text)]), np.frombuffer(text, np.uint8)]
    replicas._from_first = lambda array: replies.pop(0) if replies else array
    with pytest.raises(UserError, match="Machine 1 has different epochs than machine 0"):
        replicas.follow(Progress({"epochs": 4}))


def test_every_machine_has_the_first_ones_weights_and_a_dropout_of_its_own():
    first, decoder = Replicas(fresh()), fresh()
    replicas, settings = Replicas(decoder), {"epochs": 3}
    replicas.rank, replicas.count, replicas.chief = 1, 2, False
    text = json.dumps(vars(Progress(settings))).encode()
    sent = [array.ravel() for array in map(np.asarray, variables_of(first.decoder.every_word))]
    replies = [[len(text)], np.frombuffer(text, np.uint8), np.concatenate(sent, dtype=float)]
    replicas._from_first = lambda array: np.asarray(replies.pop(0))
    replicas.follow(Progress(settings))
    model, theirs = decoder.every_word, first.decoder.every_word
    for mine, other in zip(model.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    captions = toy(16, 0)
    batch, _ = replicas.batch(captions.features, captions.tokens, np.arange(16))
    outputs = [np.asarray(m(batch[0], training=True)) for m in (model, theirs)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
