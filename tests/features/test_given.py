"""Precomputed features and grids are read, checked, and joined by name."""

import numpy as np
import pandas as pd
import pytest

from roco_caption.core.errors import UserError
from roco_caption.features.given import read_features_file, read_grid_file, with_grid_file
from roco_caption.features.table import Features, select_inputs, to_float16


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


def test_features_of_several_files_are_concatenated_by_name(tmp_path):
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(50, 3)) + 5, rng.normal(size=(40, 7)) * 90
    names = [f"i{k}" for k in range(50)]
    np.savez(tmp_path / "one.npz", names=names, features=one)
    np.savez(tmp_path / "two.npz", names=names[:9:-1], features=two[::-1])  # the last 40, backwards
    both = read_features_file(f"{tmp_path}/one.npz, {tmp_path}/two.npz")
    assert both.ids == names[10:] and both.skipped == {
        name: "not in every file of FEATURES_FILE" for name in names[:10]
    }
    assert both.encoder["name"] == "one+two" and both.encoder["layer"] == "given"
    assert both.encoder["weights"].count("sha256") == 2
    np.testing.assert_allclose(both.matrix[:, :3], one[10:], atol=0.01)
    ratio = both.matrix[:, 3:] / two
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.01)  # whose rows are whose
    spread = both.matrix.astype(float).var(axis=0)
    assert spread[:3].sum() == pytest.approx(spread[3:].sum(), rel=0.01)  # each counts as much
    np.savez(tmp_path / "others.npz", names=["x"], features=np.ones((1, 2)))
    with pytest.raises(UserError, match=r"No image has features in all of one, others"):
        read_features_file(f"{tmp_path}/one.npz,{tmp_path}/others.npz")
    with pytest.raises(UserError, match=r"missing\.npz was not read"):
        read_features_file(f"{tmp_path}/one.npz,{tmp_path}/missing.npz")


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
    assert given.select_grid(["a"])[:].tolist() == [[[6, 3.5], [8, 4.5], [10, 5.5]]]
    assert given.select(["a"]).tolist() == [[0, 1]]
    with pytest.raises(UserError, match="have no grids, which ATTENTION needs"):
        read_features_file(path, with_grid=False).select_grid(["a"])
    replaced = with_grid_file(given, grid_file(tmp_path / "grid.npz", scale=None))
    assert replaced.select_grid(["a"])[:].tolist() == [[[6, 7], [8, 9], [10, 11]]]
    np.savez(tmp_path / "more.npz", names=np.array(["a", "b"]), features=np.eye(2) * 3)
    joined = read_features_file(f"{path},{tmp_path / 'more.npz'}")
    assert joined.ids == ["b", "a"] and joined.grid[0].tolist() == given.grid[0].tolist()
    grid_file(path, features=np.eye(2), scale=np.ones(3))
    with pytest.raises(UserError, match=r"both\.npz was not read \(`scale` must be \(channels\)"):
        read_features_file(path)


def grid_file(path, **arrays):
    grid = np.arange(12, dtype=np.int8).reshape(2, 3, 2)
    values = {"names": np.array(["b", "a"]), "grid": grid, "scale": np.array([1, 0.5])} | arrays
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


def test_grids_of_a_file_join_features_by_name(tmp_path, capsys):
    path = grid_file(tmp_path / "grid.npz")
    given = Features(["a", "c", "b"], np.eye(3, dtype=np.float16), {"name": "x"}, {})
    both = with_grid_file(given, path)
    assert both.ids == ["a", "b"] and both.matrix.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert both.grid[:][0].tolist() == [[6, 3.5], [8, 4.5], [10, 5.5]]
    assert both.select_grid(["b"])[:].tolist() == [[[0, 0.5], [2, 1.5], [4, 2.5]]]
    frame = pd.DataFrame({"id": ["c", "b"], "image": "x", "caption": "y"})
    inputs = select_inputs({"test": frame}, both)
    assert inputs.frames["test"].id.tolist() == ["b"]
    assert inputs.missing == ["c: not in GRID_FILE"]
    assert "2 images (3 cells each)" in capsys.readouterr().out
    plain = read_grid_file(grid_file(path, scale=None))[1]
    assert plain[0].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": None},
        {"names": np.array(["a", "a"])},
        {"names": np.array(["a"])},
        {"grid": np.zeros((2, 3))},
        {"scale": np.ones(3)},
        {"grid": np.full((2, 3, 2), np.nan)},
    ],
)
def test_a_grid_file_that_does_not_fit_is_named(tmp_path, arrays):
    path = grid_file(tmp_path / "grid.npz", **arrays)
    with pytest.raises(UserError, match=r"grid\.npz was not read"):
        read_grid_file(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"grid\.npz was not read"):
        read_grid_file(path)
