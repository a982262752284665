"""Precomputed features and grids are read, checked, and joined by name."""

import pickle
import time

import numpy as np
import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.features.given import (
    matched,
    read_features_file,
    read_grid_file,
    with_grid_file,
)
from roco_caption.features.inputs import select_inputs
from roco_caption.features.table import Features, to_float16


def test_features_file_is_read_and_selected_from(tmp_path, capsys):
    path = tmp_path / "given.npz"
    np.savez(
        path, names=np.array(["b", "a"]), features=np.arange(6, dtype=np.float32).reshape(2, 3)
    )
    given = read_features_file(path)
    assert given.select(["a", "b"]).tolist() == [[3, 4, 5], [0, 1, 2]]
    frame = pd.DataFrame({"id": ["a", "c", "b"], "image": "x", "caption": "y"})
    inputs = select_inputs({"train": frame}, given)
    assert inputs.frames["train"].id.tolist() == ["a", "b"]
    assert inputs.vectors["train"].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert inputs.missing == ["c: not among the features"]
    with pytest.raises(UserError, match="No image of the test split"):
        select_inputs({"test": frame.iloc[1:2]}, given)
    with pytest.raises(UserError, match="1 images have no features, c"):
        given.select(["a", "c"])


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": np.array(["a"])},
        {"names": np.array(["a", "a"]), "features": np.zeros((2, 3))},
        {"names": np.array(["a"]), "features": np.zeros((2, 3))},
        {"names": np.array(["a"]), "features": np.array([[np.nan]])},
        {"names": np.array(["a"], dtype=object), "features": np.zeros((1, 3))},
    ],
)
def test_a_features_file_that_does_not_fit_is_named(tmp_path, arrays):
    np.savez(tmp_path / "given.npz", **arrays)
    with pytest.raises(UserError, match=r"given\.npz was not read"):
        read_features_file(tmp_path / "given.npz")
    (tmp_path / "given.npz").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"given\.npz was not read"):
        read_features_file(tmp_path / "given.npz")


def test_selecting_keeps_the_requested_order():
    some = Features(["a", "b", "c"], np.eye(3, dtype=np.float16), {}, {})
    assert some.select(["c", "a"]).tolist() == [[0, 0, 1], [1, 0, 0]] and "b" in some


def test_overflow_of_half_precision_stays_finite():
    assert np.isfinite(to_float16(np.array([[1e9, -1e9, 3.0]]))).all()


def test_grids_in_a_features_file_are_used_without_a_grid_file(tmp_path):
    path = grid_file(tmp_path / "both.npz", features=np.eye(2))
    given = read_features_file(path)
    assert given.select_grid(["a"])[:].tolist() == [[[8, 4.5], [10, 5.5], [12, 6.5], [14, 7.5]]]
    assert given.select(["a"]).tolist() == [[0, 1]]
    with pytest.raises(UserError, match="have no grids, which ATTENTION needs"):
        read_features_file(path, with_grid=False).select_grid(["a"])
    replaced = with_grid_file(given, grid_file(tmp_path / "grid.npz", scale=None))
    assert replaced.select_grid(["a"])[:].tolist() == [[[8, 9], [10, 11], [12, 13], [14, 15]]]
    grid_file(path, features=np.eye(2), scale=np.ones(3))
    with pytest.raises(UserError, match=r"both\.npz was not read \(`scale` must be \(channels\)"):
        read_features_file(path)


def grid_file(path, **arrays):
    grid = np.arange(16, dtype=np.int8).reshape(2, 4, 2)
    values = {"names": np.array(["b", "a"]), "grid": grid, "scale": np.array([1, 0.5])} | arrays
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


def test_grids_of_a_file_join_features_by_name(tmp_path, capsys):
    path = grid_file(tmp_path / "grid.npz")
    given = Features(["a", "c", "b"], np.eye(3, dtype=np.float16), {"name": "x"}, {})
    both = with_grid_file(given, path)
    assert both.ids == ["a", "b"] and both.matrix.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert both.grid[:][0].tolist() == [[8, 4.5], [10, 5.5], [12, 6.5], [14, 7.5]]
    assert both.select_grid(["b"])[:].tolist() == [[[0, 0.5], [2, 1.5], [4, 2.5], [6, 3.5]]]
    frame = pd.DataFrame({"id": ["c", "b"], "image": "x", "caption": "y"})
    inputs = select_inputs({"test": frame}, both)
    assert inputs.frames["test"].id.tolist() == ["b"]
    assert inputs.missing == ["c: not in GRID_FILE"]
    assert "2 images (4 cells each)" in capsys.readouterr().out
    plain = read_grid_file(grid_file(path, scale=None))[1]
    assert plain[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": None},
        {"names": np.array(["a", "a"])},
        {"names": np.array(["a"])},
        {"grid": np.zeros((2, 3))},
        {"scale": np.ones(3)},
        {"grid": np.full((2, 4, 2), np.nan)},
        {"grid": np.zeros((2, 50, 2))},  # with a class token
        {"grid": np.zeros((2, 56, 2))},  # 7 × 8
    ],
)
def test_a_grid_file_that_does_not_fit_is_named(tmp_path, arrays):
    path = grid_file(tmp_path / "grid.npz", **arrays)
    with pytest.raises(UserError, match=r"grid\.npz was not read"):
        read_grid_file(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"grid\.npz was not read"):
        read_grid_file(path)


IDS = ["a", "\xf6dem", "train/001", "test/001", "1.2.840.1", "img1.png", "img1.jpg"]


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a", "a"),
        ("a.png", "a"),
        ("images/a.PNG", "a"),
        ("./a.jfif", "a"),
        ("train/radiology/images/o\u0308dem.png", "\xf6dem"),
        ("images\\a.png", "a"),
        ("C:\\data\\a.jpeg", "a"),
        ("train/001.png", "train/001"),
        ("all_data/test/radiology/images/001.jpg", "test/001"),
        ("1.2.840.1", "1.2.840.1"),
        ("series/1.2.840.1.dcm", "1.2.840.1"),
        ("img1.png", "img1.png"),
        ("images/img1.jpg", "img1.jpg"),
        ("b.png", "b.png"),
        ("a.b", "a.b"),
        ("validation/001", "validation/001"),
        ("img1.webp", "img1.webp"),
    ],
)
def test_names_are_matched_to_ids(name, image):
    assert matched([name], IDS, "FEATURES_FILE f.npz") == [image]


def test_what_is_named_exactly_is_not_matched_again():
    assert matched(["x/a.png", "a"], ["a"], "") == ["x/a.png", "a"]
    assert matched(["001", "train/001.png"], ["001", "train/001"], "") == ["001", "train/001"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["001"], "'001' may mean 'test/001' or 'train/001'"),
        (["all/001.png"], None),
        (["img1"], "'img1' may mean 'img1.jpg' or 'img1.png'"),
        (["x/a.png", "y/a.png"], "both 'x/a.png' and 'y/a.png' mean 'a'"),
        (["a.png", "a.jpg"], "both 'a.png' and 'a.jpg' mean 'a'"),
    ],
)
def test_an_unclear_name_is_an_error_that_says_how_to_name_it(names, why):
    if why is None:
        assert matched(names, IDS, "") == names
        return
    with pytest.raises(UserError, match=f"FEATURES_FILE f: {why}. Use the images' ids as names"):
        matched(names, IDS, "FEATURES_FILE f")


def test_files_with_paths_for_names_serve_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["images/a.png", "images\\b.png", "train/001.jpg"]
    grid = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    np.savez(tmp_path / "f.npz", names=names, features=np.eye(3))
    np.savez(tmp_path / "g.npz", names=names[::-1], grid=grid)
    ids = ["train/001", "a", "b", "test/001"]
    given = with_grid_file(read_features_file("~/f.npz", ids=ids), "~/g.npz")
    assert given.ids == ["a", "b", "train/001"]
    assert given.select(["train/001"]).tolist() == [[0, 0, 1]]
    assert given.select_grid(["train/001"])[0].tolist() == grid[0].tolist()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.uniform(1e5, 1e6, (20, 8)),
        lambda rng: rng.normal(size=(20, 8)) * 1e-9,
        lambda rng: -rng.uniform(1e6, 1e7, (20, 8)),
        lambda rng: 1e4 + rng.normal(size=(20, 8)),  # in range, but rounded to steps of 8
        lambda rng: np.where(rng.random((20, 8)) < 0.1, 7e4, 1),
    ],
    ids=["large", "small", "negative", "far from zero", "some large"],
)
def test_features_that_half_precision_would_blur_keep_their_differences(tmp_path, capsys, draw):
    features = draw(np.random.default_rng(0))
    names = [f"i{k}" for k in range(20)]
    np.savez(tmp_path / "f.npz", names=names, features=features)
    given = read_features_file(tmp_path / "f.npz")
    spread = features.std()
    np.testing.assert_allclose(given.select(names), features, rtol=1e-6, atol=spread * 1e-2)
    assert "stay in float32" in capsys.readouterr().out


def test_usual_features_stay_in_half_precision(tmp_path, capsys):
    features = np.maximum(np.random.default_rng(0).normal(size=(50, 30)), 0) * 5
    np.savez(tmp_path / "f.npz", names=[f"i{k}" for k in range(50)], features=features)
    assert read_features_file(tmp_path / "f.npz").matrix.dtype == np.float16
    assert "float32" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [0, 3, 1e6, 1e-9])
def test_the_same_features_for_all_images_are_an_error(tmp_path, value):
    np.savez(tmp_path / "f.npz", names=["a", "b", "c"], features=np.full((3, 4), value))
    with pytest.raises(UserError, match=r"f\.npz holds the same features for all images"):
        read_features_file(tmp_path / "f.npz")


@pytest.mark.parametrize("names", [[b"a", b"b"], [["a"], ["b"]], np.array(["a", "b"], "U9")])
def test_names_may_be_bytes_or_a_column(tmp_path, names):
    np.savez(tmp_path / "f.npz", names=names, features=np.eye(2), scale=np.ones(7))
    assert read_features_file(tmp_path / "f.npz").ids == ["a", "b"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_numbers_that_single_precision_lacks_are_named(tmp_path, value):
    np.savez(tmp_path / "f.npz", names=["a", "b"], features=np.array([[1.0], [value]]))
    with pytest.raises(UserError, match="NaN, inf or numbers beyond single precision"):
        read_features_file(tmp_path / "f.npz")


@pytest.mark.parametrize("shape", [(1, 6), (6,)])
@pytest.mark.parametrize("name", ["features.pkl", "it's.p"])
def test_the_pickle_of_older_notebooks_is_converted_by_the_line_that_the_error_shows(
    tmp_path, shape, name
):
    features = {f"PMC{i}.jpg": np.full(shape, i, np.float32) for i in range(3)}
    (tmp_path / name).write_bytes(pickle.dumps(features))
    with pytest.raises(UserError) as error:
        read_features_file(tmp_path / name)
    exec(str(error.value).splitlines()[-1], {})
    given = read_features_file((tmp_path / name).with_suffix(".npz"), ids=["PMC2", "PMC0", "PMC1"])
    assert given.select(["PMC2", "PMC0"]).tolist() == [[2] * 6, [0] * 6]


def test_many_paths_of_one_stem_are_matched_in_time():
    """As in MURA, where all 40,000 files are called image1.png to image14.png."""
    ids = [f"patient{i:05}/study{k}/image1" for i in range(1000) for k in (1, 2)]
    names = [f"MURA/train/XR_ELBOW/{name}.png" for name in ids]
    begun = time.process_time()
    assert matched(names, ids, "FEATURES_FILE x") == ids
    assert time.process_time() - begun < 5  # 15 where each pair was split again


def test_a_cache_of_this_project_is_converted_by_the_line_that_the_error_shows(tmp_path):
    path = tmp_path / "vgg16-fc2-imagenet.pkl"
    matrix = np.arange(8, dtype=np.float16).reshape(2, 4)
    path.write_bytes(pickle.dumps({"ids": ["a", "b"], "features": matrix, "encoder": {}}))
    with pytest.raises(UserError, match="It is a pickle") as error:
        read_features_file(path)
    exec(str(error.value).splitlines()[-1])
    found = read_features_file(path.with_suffix(".npz"))
    assert found.ids == ["a", "b"] and (found.matrix == matrix).all()
