"""Grids stay on disk, are read by the row, and survive what the pickle beside them survives."""

import os

import numpy as np
import pytest
from helpers.toy_features import extract, make_images, tiny_encoder

from roco_caption.core.errors import UserError
from roco_caption.core.pickles import read_pickle, write_pickle
from roco_caption.features import cache as feature_cache
from roco_caption.features import extract as extraction
from roco_caption.features.cache import FeatureCache, GridFile, write_grid
from roco_caption.features.table import LazyRows, images_digest
from roco_caption.text.tokenizer import END, START
from roco_caption.training.batches import Replicas

GRIDS = "vgg16-fc2-block5_conv3-random-0.npy"


def test_a_grid_is_indexed_like_an_array_and_reads_only_those_rows(tmp_path):
    whole = np.random.default_rng(0).normal(size=(700, 4, 3)).astype(np.float16)
    sums = write_grid(tmp_path / "g.npy", whole)
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy"), whole)
    values = GridFile(tmp_path / "g.npy", sums)
    assert isinstance(values._values, np.memmap)
    order = np.random.default_rng(1).permutation(700)[:600]
    grid = LazyRows(values, order)
    assert grid.shape == (600, 4, 3) and len(grid) == 600
    rows = np.array([5, 0, 599])
    assert grid[rows].dtype == np.float32
    np.testing.assert_array_equal(grid[rows], whole[order[rows]])
    np.testing.assert_array_equal(grid[10:20], whole[order[10:20]])
    np.testing.assert_array_equal(grid.take(rows)[:], whole[order[rows]])
    np.testing.assert_allclose(
        grid.mean(), whole[order].astype("f4").mean(0, keepdims=True), atol=1e-5
    )


def test_batches_take_their_rows_of_both_kinds(tmp_path):
    grid = LazyRows(
        np.arange(24, dtype=np.int8).reshape(3, 4, 2), np.array([2, 0, 1]), np.array([1, 10])
    )
    tokens = np.array([[START, 4, END]] * 3, np.int32)
    pooled = np.arange(6, dtype=np.float16).reshape(3, 2)
    whole = Replicas.__new__(Replicas)
    whole.rank, whole.count, whole.local, whole.multiple = 0, 1, 1, 1
    ((images, grids, inputs), targets, _), _ = whole.batch((pooled, grid), tokens, np.array([1, 0]))
    assert images.tolist() == [[2, 3], [0, 1]] and grids.dtype == np.float32
    assert grids[:, 0].tolist() == [[0, 10], [16, 170]]
    assert inputs.tolist() == [[START, 4]] * 2 and targets.tolist() == [[4, END]] * 2


def test_digests_tell_other_grids_and_other_rows_apart():
    values = np.zeros((4, 2, 2), np.float16)
    grid = LazyRows(values, np.arange(4), identity="a")
    others = [LazyRows(values, np.arange(4), identity="b"), grid.take(np.array([1, 0, 2, 3]))]
    assert len({g.digest() for g in [grid, *others]}) == 3
    assert LazyRows(values.copy(), np.arange(4), identity="a").digest() == grid.digest()


def test_one_other_image_changes_the_digest():
    rows = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float16)
    known = images_digest(rows)
    for row in (0, 1, 2500, 4999):
        other = rows.copy()
        other[row, 3] += np.float16(0.5)
        assert images_digest(other) != known
    assert images_digest(rows.copy()) == known != images_digest(rows[:-1])


def test_grids_are_made_in_the_same_pass_and_mapped_from_a_file(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 10)
    images["image003"].write_bytes(b"rubbish")
    made = extract(images, tmp_path, with_grid=True)
    assert (tmp_path / GRIDS).exists() and isinstance(made.grid.values, GridFile)
    assert made.grid.shape == (9, 4, 3) and made.encoder["grid"] == "block5_conv3"
    # the stand-in's pooled features are the average of its cells
    np.testing.assert_allclose(made.grid[:].mean(axis=1), made.matrix[:, :3], rtol=2e-3)
    monkeypatch.setattr(extraction, "build_encoder", None)
    again = extract(images, tmp_path, with_grid=True)
    np.testing.assert_array_equal(again.grid[:], made.grid[:])
    assert again.grid.digest() == made.grid.digest()
    picked = again.select_grid(["image007", "image000"])
    np.testing.assert_array_equal(picked[:], made.grid[np.array([6, 0])])


def test_without_grids_files_are_what_they_were(tmp_path, tiny):
    images = make_images(tmp_path / "images", 3)
    made = extract(images, tmp_path)
    assert made.grid is None and "grid" not in made.encoder
    left = [name for name in os.listdir(tmp_path) if not name.endswith(".lock")]
    assert sorted(left) == ["images", "vgg16-fc2-random-0.pkl"]
    with pytest.raises(UserError, match="have no grids"):
        made.select_grid(list(images))


def test_interrupted_no_grid_is_lost_or_mixed_up(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 20)
    whole = extract(images, tmp_path / "whole", with_grid=True)
    first = dict(list(images.items())[:6])
    folder = tmp_path / "stopped"
    extract(first, folder, with_grid=True)
    batches, seen = extraction.image_batches, []

    def interrupted(paths, **options):
        for i, batch in enumerate(batches(paths, **options)):
            if i == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(extraction, "image_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(images, folder, with_grid=True)
    parts = folder / GRIDS.replace(".npy", ".parts")
    assert len(list(parts.glob("*.npy"))) == 1
    monkeypatch.setattr(
        extraction, "image_batches", lambda paths, **o: seen.extend(paths) or batches(paths, **o)
    )
    made = extract(images, folder, with_grid=True)
    assert len(seen) == 6 and not parts.exists()
    np.testing.assert_array_equal(made.select_grid(list(images))[:], whole.grid[:])
    np.testing.assert_array_equal(made.select(list(images)), whole.matrix)


@pytest.mark.parametrize("damage", ["missing", "short", "rubbish", "fewer"])
def test_a_damaged_part_of_grids_and_a_damaged_whole_are_made_again(
    tmp_path, tiny, monkeypatch, capsys, damage
):
    def spoil(path):
        whole, values = path.read_bytes(), np.load(path)
        path.unlink()
        if damage == "fewer":
            write_grid(path, values[:-1])
        elif damage != "missing":
            path.write_bytes(whole[:-6] if damage == "short" else b"rubbish")

    images = make_images(tmp_path / "images", 8)
    whole = extract(images, tmp_path / "whole", with_grid=True)
    monkeypatch.setattr(FeatureCache, "join", lambda self: self.load())
    extract(images, tmp_path / "parts", with_grid=True)  # stopped just before they were joined
    monkeypatch.undo()
    monkeypatch.setattr(extraction, "build_encoder", tiny_encoder)
    (part,) = (tmp_path / "parts").rglob("*.npy")
    spoil(part)
    made = extract(images, tmp_path / "parts", with_grid=True)
    assert "encoded again" in capsys.readouterr().out
    np.testing.assert_array_equal(made.select_grid(list(images))[:], whole.grid[:])
    spoil(tmp_path / "parts" / GRIDS)
    made = extract(images, tmp_path / "parts", with_grid=True)
    assert "encoded again" in capsys.readouterr().out
    np.testing.assert_array_equal(made.select_grid(list(images))[:], whole.grid[:])


def test_joining_stopped_between_its_two_files_loses_nothing(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 9)
    whole = extract(images, tmp_path / "whole", with_grid=True)
    folder = tmp_path / "stopped"
    extract(dict(list(images.items())[:4]), folder, with_grid=True)
    write, cache = feature_cache.write_pickle, folder / GRIDS.replace(".npy", ".pkl")

    def stop(path, value, **options):
        if path == cache:
            raise KeyboardInterrupt
        write(path, value, **options)

    monkeypatch.setattr(feature_cache, "write_pickle", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(images, folder, with_grid=True)
    assert len(np.load(folder / GRIDS)) == 9  # the pickle still names four of them
    monkeypatch.setattr(feature_cache, "write_pickle", write)
    made = extract(images, folder, with_grid=True)
    np.testing.assert_array_equal(made.select_grid(list(images))[:], whole.grid[:])


def flip(path, row: int, rows: int) -> None:
    """Change one bit in the middle of a row of an .npy."""
    content = bytearray(path.read_bytes())
    start = content.index(b"\n") + 1
    size = (len(content) - start) // rows
    content[start + row * size + size // 2] ^= 4
    path.write_bytes(content)


def test_each_grid_is_compared_with_its_checksum_when_it_is_read(tmp_path, capsys):
    whole = np.random.default_rng(0).normal(size=(9, 4, 3)).astype(np.float16)
    path = tmp_path / "g.npy"
    sums = write_grid(path, whole)
    flip(path, 5, 9)
    assert (np.load(path) != whole).any(axis=(1, 2)).nonzero()[0].tolist() == [5]
    grid = LazyRows(GridFile(path, sums), np.array([8, 5, 0, 8]))
    np.testing.assert_array_equal(grid[[0, 2, 3]], whole[[8, 0, 8]])
    np.testing.assert_array_equal(grid[2], whole[0])
    for places in (1, slice(0, 2), np.array([0, 1])):
        with pytest.raises(UserError, match=r"Grids in .*g\.npy are damaged.*features again"):
            grid[places]
        assert "set aside as g.npy.damaged" in capsys.readouterr().out
        os.replace(tmp_path / "g.npy.damaged", path)


def test_a_grid_damaged_while_it_is_used_costs_that_image_alone(
    tmp_path, tiny, monkeypatch, capsys
):
    images = make_images(tmp_path / "images", 12)
    whole = extract(images, tmp_path, with_grid=True)
    expected = whole.grid[:].copy()
    flip(tmp_path / GRIDS, 7, 12)
    again = extract(images, tmp_path, with_grid=True)  # opened, not read
    with pytest.raises(UserError, match="features again"):
        again.select_grid(list(images))[:]
    batches, seen = extraction.image_batches, []
    monkeypatch.setattr(
        extraction, "image_batches", lambda paths, **o: seen.extend(paths) or batches(paths, **o)
    )
    made = extract(images, tmp_path, with_grid=True)
    assert seen == [images["image007"]]
    assert "1 grids in" in capsys.readouterr().out
    rows = made.select_grid(list(images))
    np.testing.assert_array_equal(rows[:], expected)
    np.testing.assert_array_equal(made.select(list(images)), whole.matrix)
    assert rows.digest() == whole.grid.digest()  # so that a training of them goes on
    assert (tmp_path / f"{GRIDS}.damaged").exists()
    assert (extract(images, tmp_path, with_grid=True).grid[:] == made.grid[:]).all()


@pytest.mark.parametrize("where", ["a part", "the whole"])
def test_a_grid_damaged_before_it_is_joined_is_made_again_at_once(
    tmp_path, tiny, monkeypatch, where
):
    images = make_images(tmp_path / "images", 10)
    whole = extract(images, tmp_path / "undisturbed", with_grid=True)
    folder = tmp_path / "damaged"
    extract(dict(list(images.items())[:5]), folder, with_grid=True)
    join, spoilt = FeatureCache.join, []

    def spoil(cache):
        if not spoilt:
            (part,) = cache.folder.glob("*.npy")
            spoilt.append(part if where == "a part" else folder / GRIDS)
            flip(spoilt[0], 2, 5)
        return join(cache)

    monkeypatch.setattr(FeatureCache, "join", spoil)
    made = extract(images, folder, with_grid=True)
    assert spoilt and not (folder / GRIDS.replace(".npy", ".parts")).exists()
    np.testing.assert_array_equal(made.select_grid(list(images))[:], whole.grid[:])
    np.testing.assert_array_equal(made.select(list(images)), whole.matrix)


def test_what_is_damaged_in_two_rounds_ends_the_extraction(tmp_path, tiny, monkeypatch):
    images = make_images(tmp_path / "images", 5)
    join = FeatureCache.join

    def spoil(cache):
        (part,) = cache.folder.glob("*.npy")
        flip(part, len(np.load(part)) // 2, len(np.load(part)))
        return join(cache)

    monkeypatch.setattr(FeatureCache, "join", spoil)
    with pytest.raises(UserError, match=r"image002 among them, were damaged twice"):
        extract(images, tmp_path, with_grid=True)
    monkeypatch.setattr(FeatureCache, "join", join)
    assert extract(images, tmp_path, with_grid=True).grid.shape == (5, 4, 3)


def test_grids_without_checksums_are_made_again(tmp_path, tiny, capsys):
    images = make_images(tmp_path / "images", 4)
    whole = extract(images, tmp_path, with_grid=True)
    cache = (tmp_path / GRIDS).with_suffix(".pkl")
    value = read_pickle(cache)
    write_pickle(cache, {k: v for k, v in value.items() if k != "grid_crc32"})
    made = extract(images, tmp_path, with_grid=True)
    assert "its grids have no checksums" in capsys.readouterr().out
    np.testing.assert_array_equal(made.grid[:], whole.grid[:])
