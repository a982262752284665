"""Workers of a cluster are counted from machines that have CPUs; shards are tried again."""

from types import SimpleNamespace

import pytest
from helpers import toy_features

pytest.importorskip("pyarrow", reason="the extra `distributed` is not installed")
pytest.importorskip("fsspec", reason="the extra `distributed` is not installed")

from roco_caption.core.errors import UserError
from roco_caption.features import extract as extraction
from roco_caption.features.shards import read_shards
from roco_caption.scale import encode


def cluster(*cpus, alive=True):
    """Stands in for Ray with one machine per number of CPUs; its workers are this process."""
    asked = {}

    class Dataset:
        def __init__(self, tasks):
            self.tasks = tasks

        def map(self, worker, fn_constructor_args, **resources):
            asked.update(resources)
            made = worker(*fn_constructor_args)
            return SimpleNamespace(iter_rows=lambda: map(made, self.tasks))

    nodes = [{"Alive": alive, "Resources": {"CPU": n} if n else {"memory": 1e9}} for n in cpus]
    nodes.append({"Alive": False, "Resources": {}})
    return SimpleNamespace(
        asked=asked,
        nodes=lambda: nodes,
        cluster_resources=lambda: {"memory": 1e9} | ({"CPU": sum(cpus)} if any(cpus) else {}),
        exceptions=SimpleNamespace(RayError=RuntimeError),
        data=SimpleNamespace(
            from_items=lambda tasks, **_: Dataset(tasks),
            ActorPoolStrategy=lambda size: size,
        ),
    )


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(encode, "build_encoder", toy_features.tiny_encoder)
    monkeypatch.setattr(extraction, "build_encoder", toy_features.tiny_encoder)


def run(folder, ray, monkeypatch, **options):
    monkeypatch.setattr(encode, "connect_ray", lambda module: ray)
    options = {"encoder_weights": "random", "shard_size": 2, "batch_size": 2} | options
    return encode.extract_shards(str(folder / "images"), str(folder / "shards"), **options)


@pytest.mark.parametrize("cpus", [(), (0,), (0, 0)])
def test_a_cluster_without_cpus_is_a_clear_error(tmp_path, monkeypatch, tiny, cpus):
    toy_features.make_images(tmp_path / "images", 3)
    with pytest.raises(UserError, match=r"has no CPUs.*ray start"):
        run(tmp_path, cluster(*cpus), monkeypatch)


@pytest.mark.parametrize(
    ("cpus", "workers", "each"), [((0, 4), 1, 4), ((0, 2, 2), 2, 2), ((2,), 1, 2)]
)
def test_a_head_without_cpus_gets_no_worker(tmp_path, monkeypatch, tiny, cpus, workers, each):
    toy_features.make_images(tmp_path / "images", 6)
    ray = cluster(*cpus)
    run(tmp_path, ray, monkeypatch)
    assert (ray.asked["compute"], ray.asked["num_cpus"]) == (workers, each)


def test_undecodable_images_are_tried_again_and_only_then_encoded(tmp_path, monkeypatch, tiny):
    images = toy_features.make_images(tmp_path / "images", 5)
    whole = images["image002"].read_bytes()
    images["image002"].write_bytes(whole[:40])
    assert list(run(tmp_path, cluster(1), monkeypatch).skipped) == ["image002"]
    assert list(run(tmp_path, None, monkeypatch).skipped) == ["image002"]  # no cluster is needed
    images["image002"].write_bytes(whole)
    found = run(tmp_path, cluster(1), monkeypatch)
    assert not found.skipped and sorted(found.ids) == list(images)
    again = read_shards(tmp_path / "shards")
    one = toy_features.extract(images, tmp_path)
    assert (again.select_rows(one.ids)[:] == one.matrix).all() and not again.skipped


def test_a_disk_that_is_gone_leaves_out_no_image(tmp_path, monkeypatch, tiny):
    toy_features.make_images(tmp_path / "images", 4)
    find = encode.find_images

    def found(url):
        files = find(url)
        (tmp_path / "images").rename(tmp_path / "unplugged")
        return files

    monkeypatch.setattr(encode, "find_images", found)
    with pytest.raises(UserError, match=r"2 of 2 shards.*could not be read"):
        run(tmp_path, cluster(1), monkeypatch)
    (tmp_path / "unplugged").rename(tmp_path / "images")
    monkeypatch.setattr(encode, "find_images", find)
    made = run(tmp_path, cluster(1), monkeypatch)
    assert len(made.ids) == 4 and not made.skipped


@pytest.mark.parametrize(("precisions", "kept"), [("float32", "float32"), ("mixed", None)])
def test_shards_keep_the_precision_that_they_have_in_common(
    tmp_path, monkeypatch, tiny, precisions, kept
):
    images = toy_features.make_images(tmp_path / "images", 4)
    images.pop("image003").rename(tmp_path / "image003.png")
    run(tmp_path, cluster(1), monkeypatch, precision="float32")
    (tmp_path / "image003.png").rename(tmp_path / "images" / "image003.png")
    second = "float32" if kept else "mixed_bfloat16"
    assert run(tmp_path, cluster(1), monkeypatch, precision=second).encoder.get("precision") == kept
