"""Trains a captioner on features in shards, on one machine or several."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption import pipeline
from roco_caption.core.backend import quiet_tensorflow
from roco_caption.core.errors import UserError, first_line
from roco_caption.core.machine import setting
from roco_caption.data.remarks import clean_training
from roco_caption.data.roco import read_dataset
from roco_caption.features.inputs import select_inputs
from roco_caption.features.shards import local_copy, read_shards
from roco_caption.scale.encode import connect_ray, extract_shards
from roco_caption.search.captioner import Captioner
from roco_caption.training.batches import find_strategy, rank_of

SPLITS = "train", "validation"


def train_captioner(
    data: str,
    shards: str,
    folder: str | os.PathLike,
    *,
    strategy: Any = None,
    copies: str = "shards",
    min_frequency: int = 3,
    max_words: int = 50,
    attention: bool = False,
    dropout: float = 0.5,
    image_dropout: float = 0.1,
    epochs: int = 30,
    batch_size: int = 256,
    learning_rate: float | str = "auto",
    seed: int = 1,
    retrain: bool = False,
    beams: int = 5,
) -> Captioner:
    """Run the notebook's stages from vocabulary to captioner; the features stay on disk.

    Args:
        data: as `read_captions` takes it.
        shards: of `extract_shards`.
        folder: for the captioner; only the first machine reads and writes it.
        strategy: as `Replicas` takes it.
        copies: a local folder for the shards of an object store.
        dropout, image_dropout: as in `build_decoder`.
        batch_size: captions per step, of all devices together.
        min_frequency and the rest: as the notebook's settings.
    """
    features = read_shards(local_copy(shards, copies))
    frames = read_captions(data)
    inputs = select_inputs(frames, features, attention=attention, lazy=True)
    for split, frame in inputs.frames.items():
        print(f"{split}: {len(frame):,} of {len(frames[split]):,} captions have image features")
    words = pipeline.index_words(inputs.frames, min_frequency=min_frequency, max_words=max_words)
    decoder = pipeline.make_decoder(
        inputs, words, seed=seed, dropout=dropout, image_dropout=image_dropout
    )
    pipeline.train_decoder(
        decoder, inputs, words, folder, seed=seed, epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate if learning_rate == "auto" else float(learning_rate),
        retrain=retrain, strategy=strategy,
    )  # fmt: skip
    if rank_of(strategy):
        return Captioner(decoder, words.tokenizer, encoder=features.encoder)
    captioner = pipeline.make_captioner(decoder, inputs, words, beams=beams)
    captioner.save(folder)
    return captioner


def read_captions(data: str) -> dict[str, pd.DataFrame]:
    """Read captions by split, {"train": DataFrame[id, caption, …], "validation": …}.

    `data` is a folder in ROCO's layout, or a .csv or .parquet, on disk or a URL, with the columns
    `id`, `caption` and `split` ("train" or "validation"; other rows are ignored).
    """
    if Path(data).is_dir():
        frames, _ = read_dataset(data)
        return {split: frames[split] for split in SPLITS}
    try:
        parquet = data.endswith(".parquet")
        table = pd.read_parquet(data) if parquet else pd.read_csv(data, dtype=str)
        table = table.dropna(subset=["id", "caption", "split"]).assign(reason="")
    except Exception as error:  # pandas, its readers and file systems each raise their own kinds
        raise UserError(
            f"{data} could not be read ({type(error).__name__}: {first_line(error)}). It must be a "
            ".csv or .parquet with the columns id, caption and split (train, validation)."
        ) from error
    table = clean_training(table).query("reason == ''").drop(columns="reason")
    return {split: table[table.split == split].reset_index(drop=True) for split in SPLITS}


def train_from_shards(
    data: str, shards: str, folder: str, *, workers: int = 0, restarts: int = 3, **settings: Any
) -> None:
    """Train a captioner on one machine or several.

    When a worker is lost, Ray starts all workers again, and they resume from the state in `folder`.

    Args:
        data, shards, folder, settings: of `train_captioner`; visible to all machines.
        workers: processes that Ray starts, each with a GPU where the cluster has any; 0 trains in
            this process without Ray, on the devices that `find_strategy` returns.
        restarts: how often lost workers are replaced.
    """
    if not workers:
        train_captioner(data, shards, folder, strategy=find_strategy(), **settings)
        return
    ray = connect_ray("ray.train.tensorflow")
    train, has_gpus = ray.train, ray.cluster_resources().get("GPU", 0) >= 1
    paths = [path if "://" in path else str(Path(path).absolute())
             for path in (data, shards, folder)]  # fmt: skip
    trainer = train.tensorflow.TensorflowTrainer(
        _train_worker,
        train_loop_config={"paths": paths, "settings": settings},
        scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=has_gpus),
        run_config=train.RunConfig(
            storage_path=str(Path(paths[2]) / "ray"),
            failure_config=train.FailureConfig(max_failures=restarts),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps what its workers raise in kinds of its own
        raise UserError(
            f"Training with {workers} workers failed ({error}). Run it again to resume from the "
            "last saved state."
        ) from error


def _train_worker(config: dict[str, Any]) -> None:
    quiet_tensorflow()
    # Ray has set TF_CONFIG
    train_captioner(*config["paths"], strategy=find_strategy(), **config["settings"])


def main(arguments: list[str]) -> None:
    """Run `encode IMAGES SHARDS` or `train DATA SHARDS FOLDER`; `ROCO_<NAME>` gives settings."""
    usage = "python -m roco_caption.scale.train encode IMAGES SHARDS | train DATA SHARDS FOLDER"
    command, *paths = arguments or [""]
    functions: list[Callable[..., Any]] = [extract_shards]
    if command == "train":
        functions = [train_from_shards, train_captioner]
    if (command, len(paths)) not in (("encode", 2), ("train", 3)):
        sys.exit(usage)
    parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
    defaults = {p.name: p.default for p in parameters if p.default not in (p.empty, None)}
    try:
        functions[0](*paths, **{name: setting(name.upper(), v) for name, v in defaults.items()})
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
