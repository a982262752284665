"""A full disk or a folder that may not be written to ends in one clear message; nothing is lost."""

import os
import resource
import subprocess

import numpy as np
import pandas as pd
import pytest
from helpers import toy_captioner, toy_training
from helpers.toy_features import extract, make_images, tiny_encoder

from roco_caption.core.errors import UserError
from roco_caption.core.files import write_text
from roco_caption.features.cache import FeatureCache
from roco_caption.features.encoder import describe
from roco_caption.features.table import Features
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training import loop as training
from roco_caption.training.checkpoint import PREVIOUS, RETRAINING, STATE, WEIGHTS

CAPTIONS = pd.DataFrame({"id": [f"image{i}" for i in range(9000)], "caption": "a left lung mass"})
HEADER = {"name": "vgg16"}


SLOW = {"marks": pytest.mark.slow}
LIMIT, READ_ONLY = pytest.param("file size limit", **SLOW), pytest.param("read-only", **SLOW)


@pytest.fixture(params=["small disk", LIMIT, READ_ONLY])
def full(request, tmp_path):
    """A folder and a function that makes it take no more than some kilobytes from then on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "file size limit":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        return  # conftest.py lifts the limit
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here")

    def fill():
        if request.param == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            return
        with pytest.raises(OSError), open(folder / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(folder / "ballast", max(0, (folder / "ballast").stat().st_size - 8192))

    yield folder, fill
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def complaint(request, full):
    """Checks the message: which file, what to do, and the room needed where the disk is full."""
    kind = request.node.callspec.params["full"]

    def check(error, name, sized=True):
        text = str(error.value)
        assert f"/disk/{name}" in text and "could not be written" in text
        assert "run this cell again" in text
        if kind == "read-only":
            assert "Read-only" in text and "Choose a writable folder" in text
        else:
            assert "Free some space" in text and " are free." in text
            assert not sized or " It needs " in text
        assert not list(full[0].rglob("*.tmp*"))  # nothing half is left

    return check


def lift(folder):
    """Make room again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(folder)], capture_output=True)


def test_captions_and_tokenizer(full, complaint):
    folder, fill = full
    words = [f"word{i}" for i in range(3000)]
    old = CaptionTokenizer.fit(words[:5], min_frequency=1)
    old.save(folder / "tokenizer.json")
    write_text(folder / "captions.csv", "id,caption\n")
    fill()
    with pytest.raises(UserError) as error:
        write_text(folder / "captions.csv", CAPTIONS.to_csv(index=False))
    complaint(error, "captions.csv")
    with pytest.raises(UserError) as error:
        CaptionTokenizer.fit(words, min_frequency=1).save(folder / "tokenizer.json")
    complaint(error, "tokenizer.json")
    assert CaptionTokenizer.load(folder / "tokenizer.json").words == old.words
    assert (folder / "captions.csv").read_text() == "id,caption\n"


def test_features_encoded_before_are_kept_and_used(full, complaint, monkeypatch):
    folder, fill = full
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", tiny_encoder)
    images = make_images(folder.parent / "images", 12)
    cache = FeatureCache(folder / "vgg16-fc2-random-0.pkl", describe("vgg16", "random"))
    known = list(images)[:4]
    rows = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    cache.add(known, rows)
    cache.flush()
    fill()
    cache.add(["big"], np.ones((1, 100_000)))
    with pytest.raises(UserError) as error:
        cache.flush()
    complaint(error, "vgg16-fc2-random-0.parts/")
    lift(folder)
    whole = extract(images, folder)
    assert (whole.select(known) == rows).all() and whole.ids == list(images)


def test_the_joined_cache_needs_its_room_too(full, complaint):
    folder, fill = full
    cache = FeatureCache(folder / "cache.pkl", HEADER)
    for name in "abcdef":  # each part small enough for the limit
        cache.add([name], np.ones((1, 3500)))
        cache.flush()
    fill()
    with pytest.raises(UserError) as error:
        cache.join()
    complaint(error, "cache.pkl")
    lift(folder)
    assert isinstance(cache.join(), Features) and not cache.folder.exists()


# (a disk cannot be made read-only under the open lock of a training that runs)
@pytest.mark.slow
@pytest.mark.parametrize("full", ["small disk", LIMIT], indirect=True)
def test_training_goes_on_from_what_was_saved(full, complaint, monkeypatch, capsys):
    folder, fill = full
    run_epoch, epochs = training._Run._run_epoch, []

    def filling(*arguments):
        run_epoch(*arguments)
        epochs.append(1)
        if len(epochs) == 2:  # after one epoch whose state was saved
            fill()

    monkeypatch.setattr(training._Run, "_run_epoch", filling)
    monkeypatch.setattr(training, "SAVE_SECONDS", -1)
    with pytest.raises(UserError) as error:
        toy_training.run(folder)
    complaint(error, WEIGHTS)
    assert (folder / STATE).exists()
    monkeypatch.setattr(training._Run, "_run_epoch", run_epoch)
    lift(folder)
    history, weights = toy_training.run(folder)
    assert "Resumed the training: 1 epochs done" in capsys.readouterr().out
    undisturbed, expected = toy_training.run(folder.parent / "whole")
    pd.testing.assert_frame_equal(history, undisturbed, check_exact=True)
    assert all((a == b).all() for a, b in zip(weights, expected, strict=True))


def test_a_state_that_does_not_fit_leaves_the_one_before(full, complaint, monkeypatch):
    folder, fill = full
    toy_training.run(folder, epochs=2)
    before = (folder / STATE).read_bytes()
    fill()
    with pytest.raises(UserError) as error:
        toy_training.run(folder, epochs=2, retrain=True)
    complaint(error, RETRAINING, sized=False)  # the folder itself may not fit
    assert (folder / STATE).read_bytes() == before and (folder / PREVIOUS).exists()


def test_all_that_is_finished_is_reused_without_room(full, monkeypatch, capsys):
    folder, fill = full
    monkeypatch.setattr("roco_caption.features.extract.build_encoder", tiny_encoder)
    images = make_images(folder.parent / "images", 6)
    extract(images, folder)
    history, _ = toy_training.run(folder, epochs=2)
    toy_captioner.save_trained(toy_captioner.make(), folder / "captioner")
    fill()
    assert extract(images, folder).ids == list(images)
    pd.testing.assert_frame_equal(toy_training.run(folder, epochs=2)[0], history)
    assert "reused" in capsys.readouterr().out
