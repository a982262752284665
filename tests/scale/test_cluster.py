"""Ray's workers make what one process makes; a kill costs what was under way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import toy_features

ray = pytest.importorskip("ray", reason="the extra `distributed` is not installed")
pytest.importorskip("aiohttp", reason="the extra `distributed` is not installed")
from helpers import slow_workers

from roco_caption.core.errors import UserError
from roco_caption.features import extract
from roco_caption.features.shards import read_shards, write_shard
from roco_caption.scale import encode
from roco_caption.scale.train import main, train_from_shards

TESTS = Path(__file__).parents[1]
IMPORTS = os.pathsep.join([str(TESTS), str(TESTS.parent)])
COUNT = 50  # images: 13 shards of at most 4


@pytest.fixture(scope="module")
def cluster():
    path = {"env_vars": {"PYTHONPATH": IMPORTS}}
    ray.init(num_cpus=2, logging_level="warning", include_dashboard=False, runtime_env=path)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = toy_features.make_images(folder, COUNT)
    made["image007"].write_bytes(b"no image")
    return made


@pytest.fixture
def server(images):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = str(images["image000"].parent)
    with ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def signs(tmp_path):
    folder = tmp_path / "signs"
    folder.mkdir()
    return folder


def assert_as_one_process(found, images, folder, monkeypatch):
    monkeypatch.setattr(extract, "build_encoder", toy_features.tiny_encoder)
    one = toy_features.extract(images, folder)
    assert sorted(found.ids) == one.ids and list(found.skipped) == ["image007"]
    rows = found.matrix.values[found.select_rows(one.ids).rows]
    assert (rows.view(np.uint16) == one.matrix.view(np.uint16)).all()


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
    return value


def test_a_killed_worker_costs_its_shard(cluster, images, server, signs, tmp_path, monkeypatch):
    killed = []

    def kill():
        wait_for(lambda: len(list(signs.glob("ended-*"))) >= 3)
        at_work = wait_for(
            lambda: (
                {p.name[6:] for p in signs.glob("begun-*")}
                - {p.name[6:] for p in signs.glob("ended-*")}
            )
        )
        killed.append(min(at_work))
        os.kill(int(killed[0].rsplit("-")[-1]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = slow_workers.encode(server, str(tmp_path / "shards"), str(signs))
    killer.join()
    assert_as_one_process(found, images, tmp_path, monkeypatch)
    begun = [path.name.split("-")[1] for path in signs.glob("begun-*")]
    twice = {name for name in begun if begun.count(name) > 1}
    assert twice == {killed[0].split("-")[0]}
    assert len(list((tmp_path / "shards").glob("*.arrow"))) == 13


def test_a_killed_driver_goes_on(images, signs, tmp_path, monkeypatch):
    folder, shards = str(images["image000"].parent), tmp_path / "shards"
    command = [
        sys.executable,
        str(TESTS / "helpers" / "slow_workers.py"),
        folder,
        str(shards),
        str(signs),
    ]
    environment = os.environ | {"PYTHONPATH": IMPORTS}
    driver = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: len(list(shards.glob("*.arrow"))) >= 4)
    driver.kill()
    driver.communicate()
    workers = {int(path.name.rsplit("-")[-1]) for path in signs.glob("begun-*")}
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    before = {path: path.stat().st_mtime_ns for path in shards.glob("*.arrow")}
    assert 4 <= len(before) < 13
    for path in signs.iterdir():
        path.unlink()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    after = {path: path.stat().st_mtime_ns for path in shards.glob("*.arrow")}
    assert len(after) == 13 and before.items() <= after.items()
    assert len(list(signs.glob("begun-*"))) == 13 - len(before)
    assert_as_one_process(read_shards(shards), images, tmp_path, monkeypatch)


def test_what_fails_is_named_and_the_rest_is_made(cluster, images, signs, tmp_path):
    folder, shards = str(images["image000"].parent), str(tmp_path / "shards")
    with pytest.raises(UserError, match=r"1 of 13 shards could not be made.*the disk is full"):
        slow_workers.encode(folder, shards, str(signs), slow_workers.FailingWorker)
    assert len(read_shards(shards).ids) == COUNT - 1 - 4


def test_an_image_that_kills_all_ends_the_run(cluster, images, signs, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "RETRIES", 1)
    folder, shards = str(images["image000"].parent), str(tmp_path / "shards")
    with pytest.raises(UserError, match="lost 2 times at one shard"):
        slow_workers.encode(folder, shards, str(signs), slow_workers.DyingWorker)
    assert len(read_shards(shards).ids) >= 4


def data(folder):
    rng = np.random.default_rng(0)
    ids = [f"image{i:03d}" for i in range(120)]
    for k in range(0, 120, 20):
        rows = rng.normal(size=(20, 6)).astype(np.float16)
        write_shard(str(folder / "shards"), ids[k : k + 20], [rows], {"name": "given"}, {})
    words = [" ".join(rng.choice(list("abcdefgh"), 3 + i % 4)) for i in range(120)]
    splits = ["train"] * 100 + ["validation"] * 20
    table = pd.DataFrame({"id": ids, "caption": words, "split": splits})
    table.to_csv(folder / "captions.csv", index=False)
    return str(folder / "captions.csv"), str(folder / "shards")


def test_a_training_that_loses_a_worker_ends_as_one_process_does(cluster, tmp_path):
    places = data(tmp_path)
    settings = {"dropout": 0.0, "image_dropout": 0.0, "epochs": 3, "batch_size": 16}
    settings |= {"min_frequency": 1, "beams": 1}
    train_from_shards(*places, str(tmp_path / "one"), **settings)
    folder, killed = tmp_path / "two", []

    def kill():
        wait_for((folder / "history.csv").exists)
        children = subprocess.run(["pgrep", "-f", "RayTrainWorker"], capture_output=True, text=True)
        killed.append(max(map(int, children.stdout.split())))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    train_from_shards(*places, str(folder), workers=2, **settings)
    killer.join()
    assert killed
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=1e-5)
    assert json.loads((folder / "captioner.json").read_text())["encoder"] == {"name": "given"}


def test_it_says_how_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ([], ["encode"], ["train", "a", "b"], ["other", "a", "b"]):
        with pytest.raises(SystemExit, match="encode IMAGES SHARDS"):
            main(arguments)
    with pytest.raises(SystemExit, match="none"):
        main(["encode", "none", "none"])
