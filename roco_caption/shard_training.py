"""Trains a captioner on features in shards: what each machine runs, and what one alone runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption import runtime
from roco_caption.captioner import Captioner
from roco_caption.consensus import Consensus
from roco_caption.dataset import read_dataset
from roco_caption.feature_table import Features
from roco_caption.files import UserError, first_line
from roco_caption.lengths import match_length
from roco_caption.model import build_captioning, fit_scalers
from roco_caption.replicas import rank_of
from roco_caption.searching import Search
from roco_caption.shards import local_copy, read_shards
from roco_caption.text import CaptionTokenizer
from roco_caption.training import Captions, train


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
    mentions: float = 1.0,
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
        min_frequency, max_words, components, dropout, image_dropout, attention, mentions, epochs,
            batch_size, learning_rate, weight_decay, patience, seed, beams, neighbours: the
            notebook's settings; with attention the notebook's `mentions` is 0.

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
        "image_dropout": image_dropout, "mentions": mentions,
    }  # fmt: skip
    if attention:
        inputs = {name: (inputs[name], features.select_grid(f.id)) for name, f in frames.items()}
        sizes |= {"attention": True, "grid_size": inputs["train"][1].shape[1:]}
    runtime.set_seeds(seed)
    captioning = build_captioning(**sizes)
    tokens = {name: tokenizer.encode(frame.caption) for name, frame in frames.items()}
    fit_scalers([captioning], inputs["train"], tokens["train"])
    captions = {name: Captions(inputs[name], tokens[name]) for name in frames}
    train(
        captioning, captions["train"], captions["validation"], folder, epochs=epochs,
        batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay,
        patience=patience, seed=seed, strategy=strategy,
    )  # fmt: skip
    captioner = Captioner(
        captioning, tokenizer, sizes=sizes, encoder=features.encoder,
        search=Search(beams, neighbours=neighbours),
    )  # fmt: skip
    if rank_of(strategy) == 0:
        if neighbours:
            captioner.consensus = Consensus.fit(captioning, inputs["train"], tokens["train"])
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
