"""Encodes images with many workers, through Ray, into shards of features."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import lock, remove_leftovers
from roco_caption.core.machine import detect
from roco_caption.core.progress import progress_bar
from roco_caption.data.images import ImageError, read_image
from roco_caption.data.names import EXTENSION, SYSTEM, without_extension
from roco_caption.features.encoder import build_encoder, describe, weights_path
from roco_caption.features.extract import (
    encode_files,
    on_each_device,
    read_or_stop,
    undecodable,
)
from roco_caption.features.shards import INSTALL, filesystem, is_local, read_shards, write_shard
from roco_caption.features.table import Features, to_float16

RETRIES = 4  # of a shard whose worker was lost: one of its images may kill them
FETCHES = 64  # images fetched from an object store at once, by each worker


def find_images(url: str) -> dict[str, str]:
    """Return the image files in a folder or URL and below, {id: path}, sorted by path.

    They are files with an extension of images or none; a DICOM file's UID ends in a number.
    """
    fs, folder = filesystem(url)
    images: dict[str, str] = {}
    for path in sorted(fs.find(folder)):
        name, ending = PurePosixPath(path).name, PurePosixPath(path).suffix[1:]
        known = EXTENSION.search(name) or not ending or ending.isdigit()
        if name.startswith(".") or name.lower() in SYSTEM or not known:
            continue
        stem = without_extension(name)
        if stem in images:
            raise UserError(f"{path} and {images[stem]} have the same id. Rename one.")
        images[stem] = path
    if not images:
        raise UserError(f"No image files (.jpg, .png, .dcm and the like) below {url}.")
    return images


class ShardWorker:
    """A worker: reads and encodes images as one machine would, and writes a shard."""

    def __init__(self, options: dict[str, Any]) -> None:
        header, machine = options["header"], detect()
        precision = options["precision"] or machine.precision
        requested = header["requested"] | {"with_grid": "grid" in header}

        def build(precision: str = precision) -> Any:
            return build_encoder(header["name"], **requested, precision=precision)

        with lock(Path(tempfile.gettempdir(), "roco-caption-weights", ".lock"), "loading weights"):
            self.models = on_each_device(build)
        self.options = options | {"header": header | {"precision": precision}}
        self.reading = reading(options["images"])
        if precision != "float32":
            self.reading["rescue"] = lambda: build("float32")

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        ids, options = list(task["ids"]), self.options
        try:
            encoded: list[str] = []
            batches: list[list[np.ndarray]] = []
            skipped: dict[str, str] = {}
            images = dict(zip(ids, task["paths"], strict=True))
            encoding = encode_files(self.models, images, options["batch_size"], **self.reading)
            for names, outputs, reasons in encoding:
                encoded += names
                batches.append([to_float16(array) for array in outputs])
                skipped |= reasons
            arrays = [np.concatenate(parts) for parts in zip(*filter(None, batches), strict=True)]
            write_shard(options["shards"], encoded, arrays, options["header"], skipped)
            return {"images": len(ids), "error": ""}
        except Exception as error:  # the other shards are still made
            return {"images": len(ids), "error": f"{type(error).__name__}: {first_line(error)}"}


def reading(images: str) -> dict[str, Any]:
    """Return the options of `image_batches` for a folder or URL."""
    fs, _ = filesystem(images)
    if is_local(fs):
        return {"read": read_or_stop}
    return {"read": fetching(fs), "workers": FETCHES}


def fetching(fs: Any) -> Callable[..., np.ndarray]:
    """Return `read_image` for another file system, whose failures leave out no image."""

    def read(path: str, size: int) -> np.ndarray:
        with tempfile.NamedTemporaryFile() as file:
            try:
                fs.get_file(path, file.name)
                return read_image(file.name, size)
            except FileNotFoundError:
                raise ImageError(f"{path} is missing.") from None
            except ImageError as error:
                raise ImageError(str(error).replace(file.name, path)) from None

    return read


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
    """Encode images with many workers, write their features in shards, and return them.

    Images in existing shards are not encoded again. A lost worker costs its current shard, which
    another worker makes; after a loss of this process the next call continues.

    Args:
        images: a folder or fsspec URL, such as `s3://bucket/all_data`, with image files there and
            below. An image's id is its file name without the extension.
        shards: a folder or URL, visible to all machines.
        encoder, encoder_weights, seed: as in `build_encoder`; a path must exist on every machine.
        precision: Keras dtype policy; the fastest of each worker's machine when empty.
        attention: whether to keep the encoder's grids too.
        shard_size: images per shard, a multiple of `batch_size`.
        workers: number of workers; 0 for as many as the cluster has GPUs, or machines.
    """
    header = describe(encoder, encoder_weights, seed, with_grid=attention)
    header |= {"requested": {"weights": weights_path(encoder_weights), "seed": seed}}
    fs, place = filesystem(shards)
    local = is_local(fs)
    with lock(Path(place) / ".lock", "encoding images") if local else nullcontext():
        if local:
            remove_leftovers(Path(place) / "*.arrow")
        files = find_images(images)
        known = read_shards(shards, header, mend=True)
        tried = {name: files[name] for name in known.skipped if name in files}
        failing = undecodable(tried, header["image_size"], **reading(images))
        known.skipped = failing
        todo = known.untried(files)
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
                f"{failed[0]}. Fix that, then run this again: it makes only the missing ones."
            )
        return read_shards(shards, header)


def _on_workers(tasks: list[dict], options: dict, workers: int) -> Iterator[dict[str, Any]]:
    ray = connect_ray("ray.data")
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    if not cpus:
        raise UserError(
            "Ray's cluster has no CPUs to work with (its head was started with --num-cpus=0). Join "
            "machines to it with `ray start --address=...`, or start it with more CPUs."
        )
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
    workers = min(workers or gpus or len(nodes), len(tasks))
    resources: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": max(1, cpus // workers)}
    # a block is a task, so that a lost worker costs one
    data = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    resources |= {"compute": ray.data.ActorPoolStrategy(size=workers), "max_task_retries": RETRIES}
    results = data.map(ShardWorker, fn_constructor_args=(options,), **resources)
    try:
        yield from results.iter_rows()
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Workers were lost {RETRIES + 1} times at one shard, or could not start "
            f"({first_line(error)}). Look for an image that crashes them or a machine without "
            "memory, then run this again; finished shards are kept."
        ) from error


def connect_ray(module: str) -> Any:
    """Import a module of Ray, and join or start its cluster."""
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
