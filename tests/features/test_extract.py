"""The cache is filled as it goes, survives kills, and is never mistaken for another's."""

import errno
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.toy_features import SLOW, extract, make_images, tiny_encoder
from PIL import Image

from roco_caption.core.errors import UserError
from roco_caption.core.pickles import write_pickle
from roco_caption.data.images import ImageError
from roco_caption.features import cache as cache_module
from roco_caption.features import extract as extraction
from roco_caption.features.cache import FeatureCache
from roco_caption.features.encoder import WeightsUnavailable
from roco_caption.features.table import Features, concatenated

ROOT = Path(__file__).parents[2]


def test_features_are_cached_in_a_pickle_that_plain_pickle_opens(tmp_path, tiny, capsys):
    images = make_images(tmp_path / "images", 10)
    made = extract(images, tmp_path)
    (cache,) = tmp_path.glob("*.pkl")
    with open(cache, "rb") as file:
        value = pickle.load(file)
    assert value.keys() == {"encoder", "ids", "features", "skipped", "files"}
    sizes = [path.stat().st_size for path in images.values()]
    assert value["files"].dtype == np.int64 and value["files"][:, 0].tolist() == sizes
    assert value["encoder"]["precision"] == "float32"
    assert value["ids"] == list(images) and value["features"].shape == (10, 6)
    assert value["features"].dtype == np.float16
    assert value["encoder"]["layer"] == "fc2" and value["encoder"]["weights"] == "random seed 0"
    assert {"keras", "roco_caption", "image_size", "preprocessing"} <= value["encoder"].keys()
    for name, path in images.items():
        pixels = np.asarray(Image.open(path).convert("RGB").resize((224, 224), 2), np.float32)
        np.testing.assert_allclose(made.select([name])[0, :3], pixels.mean((0, 1)), rtol=1e-3)


def test_a_second_run_builds_no_encoder(tmp_path, tiny, monkeypatch, capsys):
    images = make_images(tmp_path / "images", 5)
    made = extract(images, tmp_path)
    monkeypatch.setattr(extraction, "build_encoder", None)
    again = extract(images, tmp_path)
    assert again.ids == made.ids and (again.matrix == made.matrix).all()
    assert again.encoder == made.encoder
    assert "reused" in capsys.readouterr().out


def test_new_images_are_added(tmp_path, tiny):
    images = make_images(tmp_path / "images", 9)
    some = dict(list(images.items())[:4])
    first = extract(some, tmp_path)
    both = extract(images, tmp_path)
    assert both.ids == list(images)
    assert (both.select(list(some)) == first.matrix).all()
    assert len(extract(some, tmp_path).select(list(some))) == 4


def test_undecodable_images_are_skipped_and_listed(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 6)
    images["image002"].write_bytes(b"<html>")
    made = extract(images, tmp_path)
    assert "image002" not in made and list(made.skipped) == ["image002"]
    assert "image002.png cannot be decoded" in made.skipped["image002"]
    monkeypatch.setattr(extraction, "build_encoder", None)
    assert extract(images, tmp_path).skipped == made.skipped


@pytest.mark.parametrize("lost", [errno.ENOENT, errno.EIO, errno.ENOTCONN])
def test_a_disk_that_is_gone_stops_and_keeps_what_was_done(tmp_path, tiny, monkeypatch, lost):
    images = make_images(tmp_path / "images", 20)
    read, count = extraction.read_image, itertools.count()

    def read_until(path, size):
        if next(count) < 12:
            return read(path, size)
        if lost == errno.ENOENT and (tmp_path / "images").exists():
            (tmp_path / "images").rename(tmp_path / "unplugged")
        error = OSError(lost, os.strerror(lost), str(path))
        raise ImageError("cannot be decoded") from error

    monkeypatch.setattr(extraction, "read_image", read_until)
    with pytest.raises(UserError, match=r"could not be read.*run this again"):
        extract(images, tmp_path)
    if lost == errno.ENOENT:
        (tmp_path / "unplugged").rename(tmp_path / "images")
    monkeypatch.setattr(extraction, "read_image", read)
    made = extract(images, tmp_path)
    assert made.ids == list(images) and not made.skipped


def test_a_folder_of_rubbish_alone_ends_without_features(tmp_path, tiny):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"rubbish")
    assert extract({"a": path}, tmp_path).ids == []


def test_interrupted_it_keeps_what_was_done(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 20)
    batches, encoded = extraction.image_batches, []

    def interrupted(paths, **options):
        for i, batch in enumerate(batches(paths, **options)):
            if i == 3:
                raise KeyboardInterrupt
            encoded.extend(batch[0])
            yield batch

    monkeypatch.setattr(extraction, "image_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(images, tmp_path)
    seen = []
    monkeypatch.setattr(
        extraction, "image_batches", lambda paths, **o: seen.extend(paths) or batches(paths, **o)
    )
    made = extract(images, tmp_path)
    assert sorted(made.ids) == list(images) and len(encoded) == 12
    assert seen == list(images.values())[12:]


def test_a_killed_process_loses_only_the_last_moments(tmp_path, tiny):
    images = make_images(tmp_path / "images", 40)
    code = textwrap.dedent(SLOW).format(
        root=str(ROOT), tests=str(ROOT / "tests"), images=str(tmp_path / "images"),
        folder=str(tmp_path / "killed"),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed" / "vgg16-fc2-random-0.parts"
    deadline = time.monotonic() + 90
    while len(list(parts.glob("*.pkl"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = len(list(parts.glob("[0-9]*.pkl")))
    assert 4 <= saved < 10 and not list((tmp_path / "killed").glob("*.pkl"))
    resumed = extract(images, tmp_path / "killed")
    whole = extract(images, tmp_path / "whole")
    assert sorted(resumed.ids) == sorted(whole.ids) == sorted(images)
    np.testing.assert_array_equal(resumed.select(whole.ids), whole.matrix)
    assert not parts.exists()


def test_a_damaged_part_is_made_again(tmp_path, tiny, capsys):
    images = make_images(tmp_path / "images", 8)
    made = extract(dict(list(images.items())[:4]), tmp_path)
    parts = tmp_path / "vgg16-fc2-random-0.parts"
    parts.mkdir()
    (parts / "1.pkl").write_bytes(b"\x80\x05half")
    both = extract(images, tmp_path)
    assert both.ids == list(images) and (both.matrix[:4] == made.matrix).all()
    assert "encoded again" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["cache", "part"])
def test_a_flipped_byte_is_noticed_set_aside_and_encoded_again(
    tmp_path, tiny, capsys, monkeypatch, where
):
    images = make_images(tmp_path / "images", 8)
    made = extract(images, tmp_path)
    path = tmp_path / "vgg16-fc2-random-0.pkl"
    if where == "part":
        (tmp_path / "vgg16-fc2-random-0.parts").mkdir()
        path = path.rename(tmp_path / "vgg16-fc2-random-0.parts" / "1.pkl")
    content = path.read_bytes()
    place = content.index(made.matrix.tobytes()) + 9
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    seen = []
    monkeypatch.setattr(FeatureCache, "add", spied(seen, FeatureCache.add))
    again = extract(images, tmp_path)
    assert again.ids == made.ids and (again.matrix == made.matrix).all() and seen == list(images)
    assert f"set aside as {path.name}.damaged. Its images are encoded again" in (
        capsys.readouterr().out
    )
    assert where == "part" or (tmp_path / "vgg16-fc2-random-0.pkl.damaged").exists()


def spied(seen, add):
    return lambda self, ids, *arrays, **rest: seen.extend(ids) or add(self, ids, *arrays, **rest)


def test_a_cache_of_another_encoder_is_refused_with_the_reason(tmp_path, tiny):
    images = make_images(tmp_path / "images", 3)
    extract(images, tmp_path, seed=5)
    (tmp_path / "vgg16-fc2-random-5.pkl").rename(tmp_path / "vgg16-fc2-random-6.pkl")
    before = (tmp_path / "vgg16-fc2-random-6.pkl").read_bytes()
    with pytest.raises(UserError, match=r"another encoder .weights: 'random seed 5'"):
        extract(images, tmp_path, seed=6)
    assert (tmp_path / "vgg16-fc2-random-6.pkl").read_bytes() == before


@pytest.mark.parametrize(
    "value",
    [
        3,
        np.zeros(3),
        {"ids": ["a"]},
        {"encoder": {}, "ids": [1], "features": np.zeros((1, 3), np.float16), "skipped": {}},
        {"encoder": {}, "ids": ["a"], "features": np.zeros((2, 3), np.float16), "skipped": {}},
        {"encoder": {}, "ids": ["a"], "features": np.zeros((1, 3)), "skipped": {}},
        {"encoder": {}, "ids": ["a", "a"], "features": np.zeros((2, 3), np.float16), "skipped": {}},
        {"encoder": {}, "ids": ["a"], "features": [[1.0]], "skipped": {}},
        {"encoder": 3, "ids": ["a"], "features": np.zeros((1, 3), np.float16), "skipped": {}},
        {"encoder": {}, "ids": ["a"], "features": np.zeros((1, 3), np.float16), "skipped": 3},
        *(
            {"encoder": {}, "ids": ["a"], "features": np.zeros((1, 3), np.float16), "skipped": {}}
            | {"files": files}
            for files in ([1], 7, np.zeros((1, 3)), np.zeros((2, 3), np.int64))
        ),
    ],
)
def test_what_is_no_cache_is_refused_by_name_and_as_a_part_set_aside(tmp_path, tiny, value):
    write_pickle(tmp_path / "vgg16-fc2-random-0.pkl", value)
    with pytest.raises(UserError, match=r"random-0\.pkl is not a feature cache"):
        extract(make_images(tmp_path / "images", 1), tmp_path)
    part = tmp_path / "vgg16-fc2-random-0.parts" / "1.pkl"
    part.parent.mkdir()
    (tmp_path / "vgg16-fc2-random-0.pkl").rename(part)
    assert len(extract(make_images(tmp_path / "images", 2), tmp_path).ids) == 2


@pytest.mark.parametrize("at", [1, 2, 3])
def test_interrupted_while_it_adds_it_keeps_what_was_done(tmp_path, tiny, monkeypatch, at):
    images, halved, calls = make_images(tmp_path / "images", 12), cache_module.to_float16, []

    def interrupted(rows):
        calls.append(len(rows))
        if len(calls) == at:
            raise KeyboardInterrupt
        return halved(rows)

    monkeypatch.setattr(cache_module, "to_float16", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(images, tmp_path, batch_size=4)
    monkeypatch.setattr(cache_module, "to_float16", halved)
    assert len(extract(images, tmp_path, batch_size=4).ids) == 12


def test_without_imagenet_weights_phantoms_go_on_and_real_data_stops(tmp_path, monkeypatch, capsys):
    def offline(name, weights, **options):
        if weights == "imagenet":
            raise WeightsUnavailable("no network")
        return tiny_encoder(name, weights, **options)

    monkeypatch.setattr(extraction, "build_encoder", offline)
    images = make_images(tmp_path / "images", 3)
    with pytest.raises(WeightsUnavailable):
        extract(images, tmp_path, weights="imagenet")
    made = extract(images, tmp_path, weights="imagenet", allow_random=True)
    assert made.encoder["weights"] == "random seed 0"
    assert "RANDOM weights" in capsys.readouterr().out


def test_numbers_that_are_not_finite_are_refused_and_what_was_before_is_kept(
    tmp_path, monkeypatch, capsys
):
    def overflowing(name, weights, **options):
        pixels = keras.Input((224, 224, 3), dtype="uint8")
        mean = keras.ops.mean(keras.ops.cast(pixels, "float32"), (1, 2))
        return keras.Model(pixels, mean / (255 - mean), name=name)  # of white: 255 / 0

    monkeypatch.setattr(extraction, "build_encoder", overflowing)
    images = make_images(tmp_path / "images", 6)
    Image.new("L", (40, 40), 255).save(images["image005"])
    for precision in ("float32", "mixed_float16"):
        with pytest.raises(UserError, match=r"image005\.png, even in float32"):
            extract(images, tmp_path, precision=precision)
    assert np.isfinite(extract(dict(list(images.items())[:5]), tmp_path).matrix).all()
    assert "Features of 1 images made" in capsys.readouterr().out


def overflowing(built, limit):
    """Build an encoder that overflows in half precision if an image's mean exceeds `limit`."""

    def build(name, weights, *, precision="float32", with_grid=False, **options):
        built.append(precision)
        pixels = keras.Input((224, 224, 3), dtype="uint8")
        x = keras.ops.cast(pixels, "float32")
        means = keras.ops.mean(x, (1, 2))
        bad = keras.ops.where(means > limit, np.inf, means)
        output = means if precision == "float32" else bad
        cells = keras.ops.reshape(means if with_grid == "good" else output, (-1, 1, 3))
        return keras.Model(pixels, [means, cells] if with_grid else output, name=name)

    return build


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("with_grid", [False, True])  # with it, only the grid overflows
def test_a_batch_that_overflows_is_encoded_again_in_float32(
    tmp_path, monkeypatch, capsys, precision, with_grid
):
    images = make_images(tmp_path / "images", 12)
    for name in ("image001", "image009", "image010"):  # in two batches
        Image.new("L", (40, 40), 250).save(images[name])
    built: list[str] = []
    monkeypatch.setattr(extraction, "build_encoder", overflowing(built, 200))
    made = extract(images, tmp_path, precision=precision, with_grid=with_grid)
    assert built == [precision, "float32"] and made.ids == list(images)
    assert (made.select(["image009"]) == 250).all() and made.encoder["precision"] == precision
    assert "2 batches contained NaN or inf and were encoded again in float32" in (
        capsys.readouterr().out
    )
    assert not with_grid or (made.select_grid(["image001"])[:] == 250).all()


def test_without_overflow_no_second_encoder_is_built(tmp_path, monkeypatch):
    built: list[str] = []
    monkeypatch.setattr(extraction, "build_encoder", overflowing(built, 256))
    extract(make_images(tmp_path / "images", 6), tmp_path, precision="mixed_float16")
    assert built == ["mixed_float16"]


def coarse(name, weights, *, precision="float32", with_grid=False, **options):
    """Stands in for an encoder whose features differ with its precision."""
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    mean = keras.ops.mean(keras.ops.cast(pixels, "float32"), (1, 2))
    factor = {"float32": 1, "mixed_float16": 2, "mixed_bfloat16": 4}[precision]
    return keras.Model(pixels, mean * factor, name=name)


@pytest.mark.parametrize("first", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("second", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_a_complete_cache_serves_every_precision_and_none_is_mixed(
    tmp_path, monkeypatch, capsys, first, second
):
    monkeypatch.setattr(extraction, "build_encoder", coarse)
    images = make_images(tmp_path / "images", 6)
    images["image002"].write_bytes(b"rubbish")
    some = dict(list(images.items())[:4])
    made = extract(some, tmp_path, precision=first)
    assert made.encoder["precision"] == first
    capsys.readouterr()
    again = extract(some, tmp_path, precision=second)
    assert (again.matrix == made.matrix).all() and again.encoder == made.encoder
    said = capsys.readouterr().out
    assert (f"All features were made in {first}" in said) == (first != second)
    Image.new("L", (60, 60), 10).save(images["image001"])  # what is exchanged is made alike
    exchanged = extract(some, tmp_path, precision=second)
    factor = {"float32": 1, "mixed_float16": 2, "mixed_bfloat16": 4}
    assert (exchanged.select(["image001"]) == 10 * factor[first]).all()
    more = extract(images, tmp_path, precision=second)  # incomplete: each has a file of its own
    assert more.encoder["precision"] == second
    assert (more.select(["image001"]) == 10 * factor[second]).all()
    ratio = more.select(["image000"]) / made.select(["image000"])
    np.testing.assert_allclose(ratio, factor[second] / factor[first], rtol=2e-3)
    assert len(list(tmp_path.glob("*.pkl"))) == (1 if first == second else 2)
    for path in tmp_path.glob("*.pkl"):
        with open(path, "rb") as file:
            precision = pickle.load(file)["encoder"]["precision"]
        assert path.stem == "vgg16-fc2-random-0" + f"-{precision}" * (precision != "float32")


def test_weights_and_folder_may_begin_at_home_or_be_relative(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    images = make_images(tmp_path / "images", 2)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "eff.weights.h5").write_bytes(b"weights")
    absolute = str(tmp_path / "w" / "eff.weights.h5")
    for weights in ("w/eff.weights.h5", "~/w/eff.weights.h5", absolute):
        made = extract(images, "~/roco", weights=weights)
        assert made.encoder["requested"] == {"weights": absolute, "seed": 0}
    caches = [path.name for path in tmp_path.rglob("*.pkl")]
    assert caches == ["vgg16-fc2-eff.weights-9a129038.pkl"]
    assert not (tmp_path / "~").exists()


def test_weights_files_of_one_name_have_a_cache_each(tmp_path, tiny):
    images = make_images(tmp_path / "images", 2)
    for k in (1, 2, 1):
        file = tmp_path / f"w{k}" / "model.weights.h5"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"weights" * k)
        assert extract(images, tmp_path / "roco", weights=str(file)).ids == list(images)
    assert len(list(tmp_path.rglob("*.pkl"))) == 2


def test_parts_left_by_a_killed_run_are_joined_without_an_encoder(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 5)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "join", lambda self: self.load())
        extract(images, tmp_path)
    monkeypatch.setattr(extraction, "build_encoder", None)
    assert extract(images, tmp_path).ids == list(images)
    assert not (tmp_path / "vgg16-fc2-random-0.parts").exists()


def test_an_exchanged_image_whose_part_is_damaged_is_encoded_again(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 6)
    extract(images, tmp_path)
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(images["image002"])
    join, joined = FeatureCache.join, []

    def damaged_once(self):
        for part in self.folder.glob("*.pkl") if not joined else ():
            part.write_bytes(part.read_bytes()[:-40])
        joined.append(self)
        return join(self)

    monkeypatch.setattr(FeatureCache, "join", damaged_once)
    made = extract(images, tmp_path)
    assert len(joined) == 2
    np.testing.assert_allclose(made.select(["image002"])[0, :3], 200, rtol=1e-3)
    monkeypatch.setattr(extraction, "build_encoder", None)
    assert (extract(images, tmp_path).matrix == made.matrix).all()


def test_files_with_another_time_do_not_renew_the_caches(tmp_path, tiny, capsys):
    images = make_images(tmp_path / "images", 4)
    made = extract(images, tmp_path)
    (cache,) = tmp_path.glob("*.pkl")
    os.utime(cache, (1e9, 1e9))
    for path in images.values():  # as in a new session, which unpacks them again
        path.write_bytes(path.read_bytes())
    again = extract(images, tmp_path)
    assert (again.matrix == made.matrix).all() and (again.files != made.files).any()
    assert cache.stat().st_mtime == 1e9 and "reused" in capsys.readouterr().out


def test_a_part_without_any_readable_image_costs_no_features(tmp_path, tiny):
    made = extract(make_images(tmp_path / "images", 4), tmp_path)
    empty = Features([], None, made.encoder, {"bad": "no image"})
    both = concatenated([made, empty], made.encoder)
    assert both.ids == made.ids and (both.matrix.values[both.matrix.rows] == made.matrix).all()
    assert both.skipped == empty.skipped
