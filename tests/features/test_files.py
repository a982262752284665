"""Exchanged pictures are encoded again; files that are only newer, moved or gone are not."""

import os
import shutil

import numpy as np
import pytest
from helpers.toy_features import extract
from PIL import Image

from roco_caption.core.pickles import read_pickle, write_pickle
from roco_caption.features import extract as extraction
from roco_caption.features import files
from roco_caption.features.cache import FeatureCache
from roco_caption.features.files import UNKNOWN, file_mark, present_marks

CACHE = "vgg16-fc2-random-0.pkl"


@pytest.fixture
def encoded(monkeypatch):
    """The ids that were added to a cache."""
    ids: list[str] = []
    add = FeatureCache.add
    monkeypatch.setattr(
        FeatureCache, "add", lambda self, new, *a, **o: ids.extend(new) or add(self, new, *a, **o)
    )
    return ids


def draw(path, shade):
    Image.new("L", (40, 40), shade).save(path, "BMP")  # always of one size


def shades(count, folder):
    folder.mkdir()
    images = {f"{i}": folder / f"{i}.bmp" for i in range(count)}
    for i, path in enumerate(images.values()):
        draw(path, 10 * i)
    return images


@pytest.mark.parametrize("keeps_time", [False, True], ids=["newer", "same time, other size"])
@pytest.mark.parametrize("with_grid", [False, True])
def test_an_exchanged_picture_is_encoded_again(
    tmp_path, tiny, encoded, capsys, keeps_time, with_grid
):
    images = shades(6, tmp_path / "images")
    extract(images, tmp_path, with_grid=with_grid)
    before = images["2"].stat().st_mtime_ns
    draw(images["2"], 200)
    if keeps_time:
        Image.new("L", (50, 50), 200).save(images["2"], "BMP")
    os.utime(images["2"], ns=(before, before + (not keeps_time)))
    encoded.clear()
    made = extract(images, tmp_path, with_grid=with_grid)
    assert encoded == ["2"] and made.select(["2"])[0, 0] == 200
    assert made.select(["3"])[0, 0] == 30
    assert not with_grid or (made.select_grid(["2"])[:] == 200).all()
    assert "1 images changed and are encoded again" in capsys.readouterr().out
    assert extract(images, tmp_path, with_grid=with_grid).select(["2"])[0, 0] == 200
    assert encoded == ["2"]


@pytest.mark.parametrize("with_grid", [False, True])
def test_a_copy_of_the_same_pictures_is_reused_and_its_times_remembered(
    tmp_path, tiny, encoded, monkeypatch, with_grid
):
    images = shades(5, tmp_path / "images")
    made = extract(images, tmp_path, with_grid=with_grid)
    for path in images.values():
        os.utime(path, ns=(5, 5))
    (cache,) = tmp_path.glob("*.pkl")
    encoded.clear()
    monkeypatch.setattr(extraction, "build_encoder", None)
    again = extract(images, tmp_path, with_grid=with_grid)
    assert (again.matrix == made.matrix).all() and not encoded
    assert read_pickle(cache)["files"][:, 1].tolist() == [
        path.stat().st_ctime_ns for path in images.values()
    ]
    written = cache.stat().st_mtime_ns
    third = extract(images, tmp_path, with_grid=with_grid)
    assert cache.stat().st_mtime_ns == written
    assert not with_grid or (third.select_grid(["4"])[:] == 40).all()


def test_features_outlive_their_images_and_a_folder_that_cannot_be_written(
    tmp_path, tiny, encoded, monkeypatch
):
    images = shades(3, tmp_path / "images")
    made = extract(images, tmp_path)
    os.utime(images["1"], ns=(7, 7))
    images["2"].unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roco_caption.core.files.os.replace", full)
    encoded.clear()
    assert (extract(images, tmp_path).matrix == made.matrix).all() and not encoded


def test_caches_without_marks_are_accepted_and_completed_when_written(tmp_path, tiny, encoded):
    images = shades(5, tmp_path / "images")
    first = dict(list(images.items())[:4])
    made = extract(first, tmp_path)
    value = read_pickle(tmp_path / CACHE)
    del value["files"], value["encoder"]["precision"]
    write_pickle(tmp_path / CACHE, value)
    draw(images["0"], 99)  # nothing is known of how it was
    encoded.clear()
    assert (extract(first, tmp_path).matrix == made.matrix).all() and not encoded
    extract(images, tmp_path)
    files = read_pickle(tmp_path / CACHE)["files"]
    assert encoded == ["4"] and files.tolist() == [list(file_mark(p)) for p in images.values()]
    Image.new("L", (41, 40), 120).save(images["1"], "BMP")
    assert extract(images, tmp_path).select(["1"])[0, 0] == 120 and encoded == ["4", "1"]


def test_a_change_noticed_and_then_killed_is_not_lost(tmp_path, tiny, encoded, monkeypatch):
    images = shades(6, tmp_path / "images")
    extract(images, tmp_path)
    for name in "15":
        Image.new("L", (44, 40), 150).save(images[name], "BMP")
    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "join", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract(images, tmp_path)
    encoded.clear()
    made = extract(images, tmp_path)
    assert not encoded and made.select(["1", "5", "4"])[:, 0].tolist() == [150, 150, 40]
    assert made.ids == list(images)


def test_a_picture_exchanged_for_rubbish_is_left_out_until_it_is_whole(tmp_path, tiny):
    images = shades(4, tmp_path / "images")
    extract(images, tmp_path)
    images["3"].write_bytes(b"rubbish")
    assert list(extract(images, tmp_path).skipped) == ["3"]
    assert "3" not in extract(images, tmp_path)
    draw(images["3"], 70)
    made = extract(images, tmp_path)
    assert made.select(["3"])[0, 0] == 70 and not made.skipped


@pytest.mark.parametrize("content", [b"", b"<html>", None], ids=["empty", "no image", "truncated"])
def test_an_undecodable_image_is_tried_again_in_each_run(
    tmp_path, tiny, encoded, monkeypatch, capsys, content
):
    images = shades(5, tmp_path / "images")
    whole = images["2"].read_bytes()
    images["2"].write_bytes(whole[:600] if content is None else content)
    extract(images, tmp_path)
    assert "Features of 4 images made" in (said := capsys.readouterr().out)
    assert said.rstrip().endswith("; 1 could not be decoded")
    written = (tmp_path / CACHE).stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "build_encoder", None)
        again = extract(images, tmp_path)
    assert list(again.skipped) == ["2"] and (tmp_path / CACHE).stat().st_mtime_ns == written
    assert not (tmp_path / CACHE).with_suffix(".parts").exists()
    assert "Features of 4 images reused" in (said := capsys.readouterr().out)
    assert said.count("\n") == 1
    images["2"].write_bytes(whole)
    encoded.clear()
    made = extract(images, tmp_path)
    assert encoded == ["2"] and made.select(["2"])[0, 0] == 20 and not made.skipped
    assert not read_pickle(tmp_path / CACHE)["skipped"]


def test_an_image_is_encoded_once_its_decoder_is_there(tmp_path, tiny, monkeypatch):
    """As a compressed DICOM is, before and after its decoder is installed: the same file."""
    images = shades(3, tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr("roco_caption.data.images.FORMATS", ("JPEG",))
        assert len(extract(images, tmp_path).skipped) == 3
    assert extract(images, tmp_path).ids == list(images)


def test_only_files_of_the_same_size_and_another_time_are_read(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    mark = file_mark(path)
    assert mark == (3, path.stat().st_mtime_ns, 0x352441C2)  # CRC-32 of "abc" as published
    monkeypatch.setattr("zlib.crc32", None)
    other = [(9, 9, 9), (3, mark[1], 1), mark]
    assert present_marks(other, [path] * 3) == [None, other[1], mark]
    monkeypatch.undo()
    times = [(3, 1, mark[2]), (3, 1, 5), UNKNOWN]
    assert present_marks(times, [path] * 3) == [mark, None, mark]
    path.unlink()
    assert file_mark(path) == UNKNOWN and present_marks(times, [path] * 3) == times


@pytest.mark.skipif(os.name == "nt", reason="renaming leaves no trace there")
@pytest.mark.parametrize("order", ["102", "120", "x12"])
def test_pictures_of_one_size_and_time_that_change_names_are_noticed(
    tmp_path, tiny, encoded, order
):
    images = shades(3, tmp_path / "images")
    draw(tmp_path / "x", 200)
    for path in (*images.values(), tmp_path / "x"):
        os.utime(path, (1e9, 1e9))
    extract(images, tmp_path)
    aside = {name: images.get(name, tmp_path / "x").rename(tmp_path / f"{name}.tmp")
             for name in "x012"}  # fmt: skip
    for name, other in zip(images, order, strict=True):
        aside[other].rename(images[name])
    encoded.clear()
    made = extract(images, tmp_path)
    greys = {"0": 0, "1": 10, "2": 20, "x": 200}
    assert made.select(list(images))[:, 0].tolist() == [greys[name] for name in order]
    assert set(encoded) == {name for name in images if order[int(name)] != name}
    encoded.clear()
    extract(images, tmp_path)
    assert not encoded


def test_marks_of_an_earlier_version_stay_valid(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    os.utime(tmp_path / "a", (1e9, 1e9))
    mark = file_mark(tmp_path / "a")
    assert present_marks([(3, 10**18, mark[2]), mark], [tmp_path / "a"] * 2) == [mark, mark]


def test_a_moved_data_set_is_the_same_data_set(tmp_path, tiny, encoded):
    images = shades(3, tmp_path / "images")
    made = extract(images, tmp_path)
    shutil.copytree(tmp_path / "images", tmp_path / "copy")  # keeps times
    encoded.clear()
    copied = {name: tmp_path / "copy" / path.name for name, path in images.items()}
    np.testing.assert_array_equal(extract(copied, tmp_path).matrix, made.matrix)
    assert not encoded


def test_a_long_look_at_many_files_shows_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROCO_PROGRESS", "text")
    (tmp_path / "a").write_text("abc")
    mark = file_mark(tmp_path / "a")
    assert present_marks([mark] * 3, [tmp_path / "a"] * 3) == [mark] * 3
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(files, "BAR_SECONDS", 0)
    present_marks([mark] * 3, [tmp_path / "a"] * 3)
    assert "looking for changed images" in capsys.readouterr().out
