"""Trains a captioner on features in shards: what each machine runs, and what one alone runs."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption.core import machine as runtime
from roco_caption.core.backend import quiet_tensorflow
from roco_caption.core.errors import UserError, first_line
from roco_caption.data.roco import read_dataset
from roco_caption.decoder.model import build_decoder, fit_scalers
from roco_caption.features.shards import local_copy, read_shards
from roco_caption.features.table import Features
from roco_caption.scale.encode import _ray, extract_shards
from roco_caption.search.captioner import Captioner
from roco_caption.search.captioner import Search
from roco_caption.search.rerank import Consensus, match_length
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.batches import find_strategy, rank_of
from roco_caption.training.loop import CaptionData, train


def train_captioner(
    data: str,
    shards: str,
    folder: str | os.PathLike,
    *,
    strategy: Any = None,
    copies: str = "shards",
    min_frequency: int = 3,
    max_words: int = 50,
    components: int = 256,
    dropout: float = 0.5,
    image_dropout: float = 0.1,
    attention: bool = False,
    epochs: int = 30,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.5,
    patience: int = 6,
    seed: int = 1,
    beams: int = 20,
    neighbours: int = 10,
) -> Captioner:
    """Do what the notebook's cells do from vocabulary to bundle, the features staying on disk.

    Args:
        data: as `read_captions` takes it.
        shards: of `extract_shards`.
        folder: takes the bundle; the first machine alone reads and writes it.
        strategy: as `Replicas` takes it.
        copies: a local folder for the shards, where they lie on an object store.
        min_frequency, max_words, components, dropout, image_dropout, attention, epochs,
            batch_size, learning_rate, weight_decay, patience, seed, beams, neighbours: the
            notebook's settings.

    Returns:
        The `Captioner`, saved in `folder`.

    Raises:
        UserError: no image of a split has features, or as `train` says.
    """
    features = read_shards(local_copy(shards, copies))
    frames = with_shards(read_captions(data), features)
    tokenizer = CaptionTokenizer.fit(
        frames["train"].caption, min_frequency=min_frequency, max_words=max_words
    )
    inputs: dict[str, Any] = {name: features.select_rows(f.id) for name, f in frames.items()}
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size, "max_len": max_words + 1, "components": components,
        "feature_size": inputs["train"].shape[1], "dropout": dropout,
        "image_dropout": image_dropout,
    }  # fmt: skip
    if attention:
        inputs = {name: (inputs[name], features.select_grid(f.id)) for name, f in frames.items()}
        sizes |= {"attention": True, "grid_size": inputs["train"][1].shape[1:]}
    runtime.set_seeds(seed)
    decoder = build_decoder(**sizes)
    tokens = {name: tokenizer.encode(frame.caption) for name, frame in frames.items()}
    fit_scalers(decoder, inputs["train"], tokens["train"])
    captions = {name: CaptionData(inputs[name], tokens[name]) for name in frames}
    train(
        decoder, captions["train"], captions["validation"], folder, epochs=epochs,
        batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay,
        patience=patience, seed=seed, strategy=strategy,
    )  # fmt: skip
    captioner = Captioner(
        decoder, tokenizer, sizes=sizes, encoder=features.encoder,
        search=Search(beams, neighbours=neighbours),
    )  # fmt: skip
    if rank_of(strategy) == 0:
        if neighbours:
            captioner.consensus = Consensus.fit(decoder, inputs["train"], tokens["train"])
        captioner.search = match_length(captioner, inputs["validation"], tokens["validation"])
        captioner.save(folder)
    return captioner


def read_captions(data: str) -> dict[str, pd.DataFrame]:
    """Read captions by split.

    Args:
        data: a folder in ROCO's layout, or a .csv or .parquet of the columns `id`, `caption` and
            `split` ("train" or "validation"; others are left out), on a disk or a URL.

    Returns:
        {"train": DataFrame[id, caption, …], "validation": …}.

    Raises:
        UserError: there is no such table, or it lacks a column or a split.
    """
    if Path(data).is_dir():
        frames, _ = read_dataset(data)
        return {split: frames[split] for split in ("train", "validation")}
    try:
        parquet = data.endswith(".parquet")
        table = pd.read_parquet(data) if parquet else pd.read_csv(data, dtype=str)
        table = table.dropna(subset=["id", "caption", "split"])
        frames = {name: frame for name, frame in table.groupby("split")}
        return {split: frames[split] for split in ("train", "validation")}
    except Exception as error:  # pandas, its readers and file systems each raise their own kinds
        raise UserError(
            f"{data} was not read ({type(error).__name__}: {first_line(error)}). It must be a .csv "
            "or .parquet with the columns id, caption and split (train, validation)."
        ) from error


def with_shards(frames: dict[str, pd.DataFrame], features: Features) -> dict[str, pd.DataFrame]:
    """Keep the captions whose images have features, and say how many there are.

    Raises:
        UserError: no image of a split has features.
    """
    kept = {name: f[f.id.map(features.__contains__)] for name, f in frames.items()}
    for name, frame in kept.items():
        print(
            f"{name}: {len(frame):,} of {len(frames[name]):,} captions have their images' features"
        )
        if frame.empty:
            raise UserError(f"No image of the {name} split has features: other ids, or none made.")
    return {name: frame.reset_index(drop=True) for name, frame in kept.items()}


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
