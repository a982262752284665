"""Shards hold what was encoded, whole or not at all, and are trained on where they lie."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from helpers import toy_features
from helpers.toy_training import fresh, toy

pa = pytest.importorskip("pyarrow", reason="the extra `distributed` is not installed")
fsspec = pytest.importorskip("fsspec", reason="the extra `distributed` is not installed")

from roco_caption.core.errors import DamagedFile, UserError
from roco_caption.features import extract as extraction
from roco_caption.features import shards
from roco_caption.features.given import read_features_file
from roco_caption.features.shards import local_copy, read_shards, write_shard
from roco_caption.features.table import Stacked
from roco_caption.scale import encode as shard_encoding
from roco_caption.scale.encode import ShardWorker, fetching, find_images
from roco_caption.scale.train import train_captioner
from roco_caption.search.captioner import Captioner
from roco_caption.training.captions import CaptionData
from roco_caption.training.loop import train

ENCODER = {"name": "vgg16", "layer": "fc2", "weights": "random seed 0"}
ASKED = {"weights": "random", "seed": 0}


def some(n: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float16) for shape in ((n, 5), (n, 4, 3))]


def write_some(folder, sizes=(3, 0, 8), with_grid=True):
    """Write shards and return their ids and arrays."""
    ids, arrays = [], []
    for seed, n in enumerate(sizes):
        names = [f"image{seed}-{i}" for i in range(n)]
        made = some(n, seed) if with_grid else some(n, seed)[:1]
        write_shard(str(folder), names, made, ENCODER, {f"bad{seed}": "no image"})
        ids, arrays = ids + names, [*arrays, made]
    return ids, [np.concatenate(parts) for parts in zip(*arrays, strict=True)]


@pytest.fixture
def memory():
    yield "memory://bucket/shards"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.mark.parametrize("where", ["local", "memory"])
def test_what_is_written_is_read(tmp_path, where, request):
    folder = tmp_path / "shards" if where == "local" else request.getfixturevalue("memory")
    ids, (matrix, grid) = write_some(folder)
    found = read_shards(folder, ENCODER)
    if where == "memory":
        assert found.matrix is None and sorted(found.ids) == sorted(ids)
        found = read_shards(local_copy(folder, tmp_path / "copies"))
    assert sorted(found.ids) == sorted(ids) and found.encoder == ENCODER
    assert found.skipped == {f"bad{i}": "no image" for i in range(3)}
    order = [ids[i] for i in np.random.default_rng(0).permutation(len(ids))]
    expected = [ids.index(name) for name in order]
    assert (found.select_rows(order)[:] == matrix[expected]).all()
    assert (found.select_grid(order)[:] == grid[expected]).all()
    assert found.select_rows(order).shape == (11, 5)


def test_any_reader_of_arrow_opens_a_shard(tmp_path):
    path = write_shard(str(tmp_path), ["a", "b"], some(2, 0), ENCODER, {})
    table = pa.ipc.open_file(path).read_all()
    assert table.column_names == ["id", "features", "grid"]
    assert np.allclose(table["features"].to_pylist(), some(2, 0)[0])


def test_features_stay_on_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(4):
        rows = rng.normal(size=(500, 4096)).astype(np.float16)
        write_shard(str(tmp_path), [f"{k}-{i}" for i in range(500)], [rows], ENCODER, {})
    before = pa.total_allocated_bytes()
    found = read_shards(tmp_path)
    assert pa.total_allocated_bytes() - before < 1e6  # of 16 MB
    for array in found.matrix.values.arrays:
        assert not array.flags.owndata and not array.flags.writeable


def test_rows_are_those_of_the_joined_array():
    arrays = [some(n, n)[1] for n in (4, 0, 1, 7)]
    rows, joined = Stacked(arrays), np.concatenate(arrays)
    for places in (slice(None), slice(2, 11, 3), slice(0, 0), np.array([11, 0, 4, 4, 5, -1])):
        assert (rows[places] == joined[places]).all()
    assert rows.shape == joined.shape and len(rows) == 12 and rows.dtype == np.float16
    with pytest.raises(IndexError):
        rows[np.array([12])]


def test_writing_again_replaces_and_an_image_counts_once(tmp_path):
    for _ in range(2):
        write_some(tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 3
    write_shard(str(tmp_path), ["image0-1", "new"], some(2, 9), ENCODER, {})
    found = read_shards(tmp_path)
    assert len(found.ids) == len(set(found.ids)) == len(found.matrix) == len(found.grid) == 12


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_some(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 20, 700])
def test_a_damaged_shard_is_named_or_set_aside(tmp_path, keep, capsys):
    ids, _ = write_some(tmp_path)
    victim = max(tmp_path.glob("*.arrow"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=victim.name):
        read_shards(tmp_path)
    left = read_shards(tmp_path, ENCODER, mend=True)
    assert sorted(left.ids) == sorted(ids)[:3]
    assert victim.with_name(victim.name + ".damaged").exists()
    assert "encoded again" in capsys.readouterr().out


def test_shards_of_another_encoder_or_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="no shards"):
        read_shards(tmp_path / "none")
    assert read_shards(tmp_path / "none", ENCODER, mend=True).ids == []
    write_some(tmp_path)
    with pytest.raises(UserError, match="another encoder \\(weights"):
        read_shards(tmp_path, ENCODER | {"weights": "imagenet"}, mend=True)


def test_shards_with_and_without_grids_serve_one_without(tmp_path):
    write_shard(str(tmp_path), ["a"], some(1, 0), ENCODER | {"grid": "x"}, {})
    write_shard(str(tmp_path), ["b"], some(1, 1)[:1], ENCODER, {})
    found = read_shards(tmp_path, ENCODER)
    assert sorted(found.ids) == ["a", "b"] and found.grid is None
    assert "grid" not in found.encoder


def test_training_from_shards_is_training_from_memory(tmp_path):
    data = {"train": toy(90, 0), "validation": toy(30, 1)}
    for name, captions in data.items():
        for start in range(0, len(captions.tokens), 25):
            part = captions.features[start : start + 25]
            ids = [f"{name}{start + i}" for i in range(len(part))]
            write_shard(str(tmp_path / "shards"), ids, [part], ENCODER, {})
    found = read_shards(tmp_path / "shards")
    lazy = {
        name: CaptionData(
            found.select_rows([f"{name}{i}" for i in range(len(captions.tokens))]), captions.tokens
        )
        for name, captions in data.items()
    }
    options = {"epochs": 2, "batch_size": 16}
    one = train(fresh(), data["train"], data["validation"], tmp_path / "one", **options)
    two = train(fresh(), lazy["train"], lazy["validation"], tmp_path / "two", **options)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert lazy["train"].digest() != lazy["validation"].digest()


def test_shards_serve_as_features_file(tmp_path, capsys):
    ids, (matrix, grid) = write_some(tmp_path)
    found = read_features_file(tmp_path)
    assert (found.select(ids) == matrix).all() and found.select(ids).dtype == np.float16
    assert isinstance(found.matrix, np.ndarray) and (found.select_grid(ids)[:] == grid).all()


def test_shards_of_an_object_store_are_copied_once(tmp_path, memory, monkeypatch):
    write_some(memory)
    copy = local_copy(memory, tmp_path / "copies")
    assert sorted(read_shards(copy).ids) == sorted(read_shards(memory).ids)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copies").iterdir()}
    local_copy(memory, tmp_path / "copies")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "copies").iterdir()}
    assert local_copy(str(tmp_path), "unused") == str(tmp_path)


def test_shards_that_changed_are_copied_again_and_those_that_went_are_removed(tmp_path, memory):
    ids, _ = write_some(memory, sizes=(3,))[:2]
    write_shard(memory, ["gone"], some(1, 5), ENCODER, {})
    local_copy(memory, tmp_path)
    for path in fsspec.filesystem("memory").ls(memory.removeprefix("memory:/"), detail=False):
        fsspec.filesystem("memory").rm(path)
    new = some(3, 9)
    write_shard(memory, [f"image0-{i}" for i in range(3)], new, ENCODER, {"bad0": "no image"})
    found = read_shards(local_copy(memory, tmp_path))
    assert sorted(found.ids) == sorted(ids)
    assert (found.select_rows([f"image0-{i}" for i in range(3)])[:] == new[0]).all()


def put_images(folder, count=11):
    """Put images, one of them damaged, into memory's file system; return their local twins."""
    images = toy_features.make_images(folder, count)
    images["image004"].write_bytes(b"no image")
    memory = fsspec.filesystem("memory")
    for path in images.values():
        memory.pipe_file(f"/bucket/images/{path.name}", path.read_bytes())
    memory.pipe_file("/bucket/images/captions.txt", b"not taken")
    return images


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(shard_encoding, "build_encoder", toy_features.tiny_encoder)
    monkeypatch.setattr(extraction, "build_encoder", toy_features.tiny_encoder)


def test_a_worker_makes_of_an_object_store_what_one_machine_makes(tmp_path, memory, tiny):
    images = put_images(tmp_path / "images")
    one = toy_features.extract(images, tmp_path, with_grid=True)
    found = find_images("memory://bucket/images")
    assert list(found) == list(images)
    header = {k: v for k, v in one.encoder.items()}
    options = {"images": "memory://bucket/images", "shards": memory, "header": header}
    worker = ShardWorker(options | {"precision": "float32", "batch_size": 4})
    done = worker({"ids": list(found), "paths": list(found.values())})
    assert done == {"images": 11, "error": ""}
    two = read_shards(local_copy(memory, tmp_path / "copies"), header)
    assert two.ids == one.ids and list(two.skipped) == ["image004"]
    assert "/bucket/images/image004.png" in two.skipped["image004"]
    assert (two.matrix.values[two.matrix.rows] == one.matrix).all()
    assert (two.grid[:] == one.grid[:]).all()


def test_a_failing_network_leaves_no_image_out(tmp_path, memory, tiny, monkeypatch):
    put_images(tmp_path / "images")
    fs = fsspec.filesystem("memory")
    with pytest.raises(Exception, match="is missing"):
        fetching(fs)("/bucket/images/none.png", 8)
    monkeypatch.setattr(type(fs), "get_file", lambda *a, **o: 1 / 0)
    options = {"images": "memory://bucket/images", "shards": memory, "precision": "float32"}
    header = {"name": "vgg16", "requested": {"weights": "random", "seed": 0}}
    worker = ShardWorker(options | {"header": header, "batch_size": 4})
    done = worker({"ids": ["image001"], "paths": ["/bucket/images/image001.png"]})
    assert "ZeroDivisionError" in done["error"]
    assert read_shards(memory, mend=True).ids == []


def test_images_are_found_by_extension_and_dicom_files_by_their_uids(tmp_path):
    uids = ["1.2.840.113619.2.1", "1.2.840.113619.2.2"]
    images = [*uids, "IM0001", "a.b.png", "deep/c.DCM"]
    for name in (*images, "DICOMDIR", "deep/DICOMDIR", "Thumbs.db", "notes.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(find_images(str(tmp_path))) == [*uids, "IM0001", "a.b", "c"]


def test_two_images_of_one_id_are_refused(tmp_path):
    for name in ("a/x.png", "b/x.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="the same id"):
        find_images(str(tmp_path))
    with pytest.raises(UserError, match="No image files"):
        find_images(str(tmp_path / "none"))


def test_a_captioner_is_trained_from_shards(tmp_path, capsys):
    ids = [f"image{i:02d}" for i in range(60)]
    write_shard(str(tmp_path / "shards"), ids, some(60, 0), ENCODER | {"requested": ASKED}, {})
    words = [f"chest film number {i % 3} of many" for i in range(60)]
    splits = ["train"] * 50 + ["validation"] * 10
    table = pd.DataFrame({"id": ids, "caption": words, "split": splits})
    table.loc[len(table)] = ["unseen", "an image without features", "train"]
    table.to_csv(tmp_path / "captions.csv", index=False)
    arguments = str(tmp_path / "captions.csv"), str(tmp_path / "shards"), tmp_path / "run"
    made = train_captioner(*arguments, epochs=2, batch_size=8, attention=True)
    assert "train: 50 of 51 captions have" in capsys.readouterr().out
    loaded = Captioner.load(tmp_path / "run")
    inputs = tuple(array[:3].astype(np.float32) for array in some(60, 0))
    assert loaded.caption_features(inputs) == made.caption_features(inputs)
    table.drop(columns="split").to_csv(tmp_path / "captions.csv", index=False)
    with pytest.raises(UserError, match="columns id, caption and split"):
        train_captioner(*arguments)


def test_notes_of_a_shard_are_json(tmp_path):
    path = write_shard(str(tmp_path), ["a"], some(1, 0), ENCODER, {"b": "why"})
    with pa.memory_map(path) as source:
        notes = json.loads(pa.ipc.open_file(source).schema.metadata[shards.KEY])
    content = b"".join(array.tobytes() for array in some(1, 0))
    assert notes.pop("sha256") == hashlib.sha256(content).hexdigest()
    assert notes == {"encoder": ENCODER, "skipped": {"b": "why"}, "shapes": [[5], [4, 3]]}


def test_shards_of_two_urls_are_two_copies(tmp_path):
    memory = fsspec.filesystem("memory")
    try:
        for name, value in (("a", 1), ("b", 2)):
            rows = [np.full((2, 3), value, np.float16)]
            write_shard(f"memory://{name}/shards", ["x", "y"], rows, ENCODER, {})
        copies = [local_copy(f"memory://{name}/shards", tmp_path) for name in "ab"]
        assert [read_shards(copy).select_rows(["x"])[:][0, 0] for copy in copies] == [1, 2]
    finally:
        for name in "ab":
            memory.rm(f"/{name}", recursive=True)


def test_images_encoded_again_make_another_training(tmp_path):
    digests = set()
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        rows = [np.full((2, 3), value, np.float16), np.ones((2, 4, 3), np.float16)]
        write_shard(str(tmp_path / name), ["x", "y"], rows, ENCODER, {})
        found = read_shards(tmp_path / name)
        digests.add((found.select_rows(["x", "y"]).digest(), found.select_grid(["x"]).digest()))
    assert len(digests) == 2
