"""Many workers and machines, through Ray: images to shards of features, and training on those."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from roco_caption import runtime
from roco_caption.backend import quiet_tensorflow
from roco_caption.encoders import describe
from roco_caption.feature_table import Features
from roco_caption.files import UserError, first_line, remove_leftovers
from roco_caption.locks import lock
from roco_caption.progress import progress_bar
from roco_caption.replicas import find_strategy
from roco_caption.shard_encoding import ShardWorker, find_images
from roco_caption.shard_training import train_captioner
from roco_caption.shards import INSTALL, filesystem, is_local, read_shards

RETRIES = 4  # of a shard whose worker was lost: an image may be what kills them


def extract_shards(
    images: str,
    shards: str,
    *,
    encoder: str = "vgg16",
    encoder_weights: str = "imagenet",
    seed: int = 0,
    precision: str = "",
    batch_size: int = 32,
    attention: bool = False,
    shard_size: int = 1024,
    workers: int = 0,
) -> Features:
    """Encode images with many workers, and write their features in shards.

    What the shards that are there hold is not made again; a worker that is lost costs the shard
    that it was at, which another makes; when this process is lost, its next call goes on.

    Args:
        images: a folder or fsspec URL, all image files below which are taken, such as
            `s3://bucket/all_data`. An image's id is its file name without the extension.
        shards: a folder or URL, seen by all machines.
        encoder: a key of `ENCODERS`.
        encoder_weights: as in `build_encoder`; a path must be there on every machine.
        seed: of random weights.
        precision: Keras dtype policy; what each worker's machine is fastest in when empty.
        batch_size: images encoded at once.
        attention: whether to keep the encoder's grids too.
        shard_size: images a shard, a multiple of `batch_size`.
        workers: encoding at once; when 0 as many as the cluster has GPUs, or machines.

    Returns:
        The `Features` of all shards, left where they are.

    Raises:
        UserError: Ray is missing, two images have one id, or some shards could not be made.
    """
    requested = {"weights": encoder_weights, "seed": seed}
    header = describe(encoder, encoder_weights, seed, with_grid=attention)
    header |= {"requested": requested}
    fs, place = filesystem(shards)
    local = is_local(fs)
    with lock(Path(place) / ".lock", "encoding images") if local else nullcontext():
        if local:
            remove_leftovers(Path(place) / "*.arrow")
        files = find_images(images)
        known = read_shards(shards, header, mend=True)
        todo = [name for name in files if name not in known and name not in known.skipped]
        print(f"{len(files):,} images found, {len(files) - len(todo):,} of them in {shards}.")
        if not todo:
            return known
        parts = [todo[i : i + shard_size] for i in range(0, len(todo), shard_size)]
        tasks = [{"ids": part, "paths": [files[name] for name in part]} for part in parts]
        options = {
            "images": images, "shards": shards, "header": header, "precision": precision,
            "batch_size": batch_size,
        }  # fmt: skip
        failed = []
        with progress_bar(total=len(todo), desc="encoding", unit="image") as bar:
            for done in _on_workers(tasks, options, workers):
                bar.update(done["images"])
                failed += [done["error"]] if done["error"] else []
        if failed:
            raise UserError(
                f"{len(failed)} of {len(tasks)} shards could not be made, the first because: "
                f"{failed[0]}. Run this again when that is put right: it makes only those."
            )
        return read_shards(shards, header)


def _on_workers(tasks: list[dict], options: dict, workers: int) -> Iterator[dict[str, Any]]:
    ray = _ray("ray.data")
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster["CPU"])
    workers = min(workers or gpus or len(ray.nodes()), len(tasks))
    each = {"num_gpus": 1} if gpus else {"num_cpus": max(1, cpus // workers)}
    # a block is a task, so that a lost worker costs one
    data = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    pool = ray.data.ActorPoolStrategy(size=workers)
    made = data.map(
        ShardWorker, fn_constructor_args=(options,), compute=pool, max_task_retries=RETRIES, **each
    )
    try:
        yield from made.iter_rows()
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Workers were lost {RETRIES + 1} times over one shard, or could not start "
            f"({first_line(error)}). Its images are the next to be made: look for one that crashes "
            "or a machine short of memory, then run this again; finished shards are kept."
        ) from error


def _ray(module: str) -> Any:
    try:
        __import__(module)
    except ImportError as error:
        raise UserError(f"{module} is missing ({first_line(error)}). {INSTALL}") from error
    import ray

    if not ray.is_initialized():
        ray.init(logging_level="warning")  # joins the cluster of `ray start`, or RAY_ADDRESS's
    if module == "ray.data":
        ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts images
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def train_from_shards(
    data: str, shards: str, folder: str, *, workers: int = 0, restarts: int = 3, **settings: Any
) -> None:
    """Train a captioner on one machine or several; see `train_captioner` for what they share.

    When a worker is lost, Ray starts all of them anew, and they go on from the state in `folder`.

    Args:
        data: captions, seen by all machines; as `read_captions` takes it.
        shards: of `extract_shards`, seen by all machines.
        folder: takes the bundle; seen by all machines, or it may be started anew after a loss.
        workers: processes that Ray starts, each with a GPU where the cluster has any; 0 trains in
            this process, on what `find_strategy` finds, without Ray.
        restarts: how often lost workers are replaced.
        settings: of `train_captioner`.

    Raises:
        UserError: Ray is missing, or as `train_captioner` says.
    """
    if not workers:
        train_captioner(data, shards, folder, strategy=find_strategy(), **settings)
        return
    ray = _ray("ray.train.tensorflow")
    train = ray.train
    gpus = int(ray.cluster_resources().get("GPU", 0))
    places = [str(Path(place).absolute()) if "://" not in place else place
              for place in (data, shards, folder)]  # fmt: skip
    trainer = train.tensorflow.TensorflowTrainer(
        _train_worker,
        train_loop_config={"places": places, "settings": settings},
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpus > 0),
        run_config=train.RunConfig(
            storage_path=str(Path(places[2]) / "ray"),
            failure_config=train.FailureConfig(max_failures=restarts),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps what its workers raise in kinds of its own
        raise UserError(f"Training with {workers} workers failed ({error}). Run it again to go on "
                        "from the state that it saved.") from error  # fmt: skip


def _train_worker(config: dict[str, Any]) -> None:
    quiet_tensorflow()
    # Ray has set TF_CONFIG
    train_captioner(*config["places"], strategy=find_strategy(), **config["settings"])


def main(arguments: list[str]) -> None:
    """Run `encode IMAGES SHARDS` or `train DATA SHARDS FOLDER`; `ROCO_<NAME>` gives settings."""
    usage = "python -m roco_caption.distributed encode IMAGES SHARDS | train DATA SHARDS FOLDER"
    commands: dict[str, tuple[Callable[..., Any], int]] = {
        "encode": (extract_shards, 2), "train": (train_from_shards, 3)
    }  # fmt: skip
    command, *places = arguments or [""]
    function, count = commands.get(command, (main, -1))
    if len(places) != count:
        sys.exit(usage)
    names = _settings(function) | (_settings(train_captioner) if command == "train" else {})
    try:
        function(*places, **{k: runtime.setting(k.upper(), v) for k, v in names.items()})
    except UserError as error:
        sys.exit(str(error))


def _settings(function: Callable) -> dict[str, Any]:
    """Return the settings that a function takes, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, (str, int, float))}


if __name__ == "__main__":
    main(sys.argv[1:])
