"""The stages of the notebook, from images to scored captions, each one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import write_text
from roco_caption.core.machine import set_seeds
from roco_caption.core.progress import tensorboard
from roco_caption.data.roco import Source, cases_of, locate_dataset, read_dataset
from roco_caption.decoder.model import (
    Decoder,
    Ensemble,
    build_decoder,
    combine,
    fit_scalers,
    member_folder,
)
from roco_caption.features.extract import extract_features
from roco_caption.features.given import read_features_file, with_grid_file
from roco_caption.features.table import Features, arrays_of, mean_image, with_features
from roco_caption.scores import baselines
from roco_caption.scores.phantoms import shares_right
from roco_caption.scores.table import score_table
from roco_caption.search.beam import Search
from roco_caption.search.captioner import Captioner
from roco_caption.search.rerank import Consensus, match_length
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.loop import CaptionData, train

Frames = dict[str, pd.DataFrame]
SHUFFLED = "images shuffled (mean of 5)"


@dataclass(frozen=True)
class Data:
    """Images and captions by split.

    Attributes:
        source: where they are.
        frames: {split: DataFrame[id, image, caption]}.
        counts: one row per split: images listed, used, and left out for which reason.
    """

    source: Source
    frames: Frames
    counts: pd.DataFrame


@dataclass(frozen=True)
class Inputs:
    """What the decoder sees of each image, by split.

    Attributes:
        frames: {split: DataFrame[id, image, caption]}, the images that have features.
        features: {split: float16 (n, d), or with attention a pair of it and the grids
            (n, cells, channels)}, in the frames' order.
        encoder: what made them, see `features.encoder.describe`.
        missing: a line per image without features: its id and the reason.
    """

    frames: Frames
    features: dict[str, Any]
    encoder: dict[str, Any]
    missing: list[str]

    @cached_property
    def vectors(self) -> dict[str, Any]:
        """The features without the grids."""
        return {split: arrays_of(arrays)[0] for split, arrays in self.features.items()}

    def image(self, split: str, row: int) -> tuple[Any, ...]:
        """Return the features of one image as `Captioner.caption_features` takes them."""
        return tuple(array[row : row + 1] for array in arrays_of(self.features[split]))

    @cached_property
    def cases(self) -> dict[str, pd.Series]:
        """The patient or article of each image."""
        return {split: cases_of(frame.id) for split, frame in self.frames.items()}


@dataclass(frozen=True)
class Words:
    """The vocabulary, and the captions as the decoder takes them: {split: int32 (n, length)}."""

    tokenizer: CaptionTokenizer
    tokens: dict[str, np.ndarray]


def prepare_data(
    cache_dir: str | os.PathLike,
    *,
    data_dir: str = "",
    source: str = "auto",
    platform: str = "local",
    phantoms: str = "768,48,300",
    limit: int = 0,
    seed: int = 1,
) -> Data:
    """Find the data set, download or draw it if necessary, and read its captions.

    Args:
        cache_dir: for downloads and phantoms.
        data_dir, source, platform, seed: as `locate_dataset` takes them.
        phantoms: synthetic images to train, validate and test on.
        limit: images per split, for a quick try; 0 takes all.

    Raises:
        UserError: there is no data set, the download failed, or a table cannot be read.
    """
    try:
        train_count, validation_count, test_count = (int(count) for count in phantoms.split(","))
    except ValueError:
        raise UserError(
            f"PHANTOMS must be three whole numbers such as '768,48,300', got {phantoms!r}."
        ) from None
    counts = train_count, validation_count, test_count
    located = locate_dataset(
        cache_dir, data_dir=data_dir, source=source, platform=platform, phantom_counts=counts,
        seed=seed,
    )  # fmt: skip
    print(located)
    return Data(located, *read_dataset(located.root, limit))


def prepare_features(
    data: Data, cache_dir: str | os.PathLike, *, attention: bool = False, **options: Any
) -> Inputs:
    """Encode the images, or read precomputed features, and select those of each split.

    Args:
        data: of `prepare_data`.
        cache_dir, options: as `read_or_encode` takes them.
        attention: whether the decoder is to attend to the grids.

    Raises:
        UserError: as `read_or_encode` and `select_inputs` say.
    """
    features = read_or_encode(data, cache_dir, attention=attention, **options)
    return select_inputs(data.frames, features, attention=attention)


def read_or_encode(
    data: Data,
    cache_dir: str | os.PathLike,
    *,
    encoder: str = "vgg16",
    weights: str = "imagenet",
    features_file: str = "",
    grid_file: str = "",
    attention: bool = False,
    precision: str = "float32",
    seed: int = 1,
) -> Features:
    """Return the features of a data set's images.

    Args:
        data: of `prepare_data`.
        cache_dir: for the cache of features, in a folder per data set.
        encoder, weights, precision, seed: as `extract_features` takes them.
        features_file: an .npz of precomputed features, used instead of the encoder.
        grid_file: with attention, an .npz of precomputed grids.
        attention: whether grids are needed.

    Raises:
        UserError: as `extract_features` says, or a file is not such an .npz.
    """
    if features_file:
        features = read_features_file(features_file)
    else:
        images = pd.concat(data.frames.values())
        features = extract_features(
            dict(zip(images.id, images.image, strict=True)),
            Path(cache_dir) / "features" / data.source.name, encoder=encoder, weights=weights,
            seed=seed, allow_random=data.source.synthetic, precision=precision,
            with_grid=attention and not grid_file,
        )  # fmt: skip
    return with_grid_file(features, grid_file) if attention and grid_file else features


def select_inputs(
    frames: Mapping[str, pd.DataFrame],
    features: Features,
    *,
    attention: bool = False,
    lazy: bool = False,
) -> Inputs:
    """Keep the images that have features, and select these.

    Args:
        frames: {split: DataFrame[id, caption, …]}.
        features: of their images.
        attention: whether to add the grids.
        lazy: whether features stay where they are, and are read batch by batch.

    Raises:
        UserError: no image of a split has features, or they have no grids.
    """
    kept, _, missing = with_features(dict(frames), features)
    select = features.select_rows if lazy else features.select
    arrays: dict[str, Any] = {split: select(list(frame.id)) for split, frame in kept.items()}
    if attention:
        arrays = {
            split: (arrays[split], features.select_grid(list(frame.id)))
            for split, frame in kept.items()
        }
    return Inputs(kept, arrays, features.encoder, missing)


def run_folder(
    root: str | os.PathLike, data: Data, inputs: Inputs, checkpoint_dir: str = ""
) -> Path:
    """Return the folder for a run's files.

    Args:
        root: what holds `checkpoints/`.
        data, inputs: name the run after data set and encoder.
        checkpoint_dir: the folder itself, if it is chosen by hand.
    """
    if checkpoint_dir:
        return Path(checkpoint_dir).expanduser()
    attention = "-attention" if isinstance(inputs.features["train"], tuple) else ""
    return Path(root) / "checkpoints" / f"{data.source.name}-{inputs.encoder['name']}{attention}"


def index_words(
    frames: Mapping[str, pd.DataFrame], *, min_frequency: int = 3, max_words: int = 50
) -> Words:
    """Make the vocabulary of the training captions, and encode all captions with it.

    Args:
        frames: {split: DataFrame[caption, …]}.
        min_frequency: words that are rarer in the training captions become unknown.
        max_words: longer captions are truncated.

    Raises:
        UserError: no word is that frequent.
    """
    tokenizer = CaptionTokenizer.fit(
        frames["train"].caption, min_frequency=min_frequency, max_words=max_words
    )
    tokens = {split: tokenizer.encode(list(frame.caption)) for split, frame in frames.items()}
    return Words(tokenizer, tokens)


def make_decoder(
    inputs: Inputs, words: Words, *, members: int = 1, seed: int = 1, **sizes: Any
) -> Decoder | Ensemble:
    """Build the decoder, and fit its scalers to the training images.

    Args:
        inputs: of `select_inputs`.
        words: of `index_words`.
        members: decoders to average; each starts from a seed of its own.
        seed: of the first one's initial weights.
        sizes: of `build_decoder` other than those of the data.
    """
    vectors, *grids = arrays_of(inputs.features["train"])
    sizes = {
        "vocab_size": words.tokenizer.vocab_size, "max_len": words.tokenizer.max_words + 1,
        "feature_size": vectors.shape[1], **sizes,
    }  # fmt: skip
    if grids:
        sizes |= {"attention": True, "grid_size": tuple(grids[0].shape[1:])}
    built = []
    for k in range(members):
        set_seeds(seed + k)
        built.append(build_decoder(**sizes))
    decoder = combine(built)
    fit_scalers(decoder, inputs.features["train"], words.tokens["train"], inputs.cases["train"])
    return decoder


def train_decoder(
    decoder: Decoder | Ensemble,
    inputs: Inputs,
    words: Words,
    folder: str | os.PathLike,
    *,
    seed: int = 1,
    callbacks: Sequence[Callable] = (),
    **options: Any,
) -> list[pd.DataFrame]:
    """Train the decoder, or each member of an ensemble; resume or reuse what was trained before.

    Args:
        decoder: of `make_decoder`.
        inputs, words: what it is trained and validated on.
        folder: of the run.
        seed: of the first member's batches.
        callbacks: called with the row of every epoch, see `train`.
        options: further ones of `train`.

    Returns:
        A history per member, see `train`.

    Raises:
        UserError: as `train` says.
    """
    learn, tune = (
        CaptionData(inputs.features[split], words.tokens[split])
        for split in ("train", "validation")
    )
    histories = []
    for k, member in enumerate(decoder.members):
        place = member_folder(folder, k)
        curves = tensorboard(place / "tensorboard")
        histories.append(
            train(
                member, learn, tune, place, seed=seed + k, callbacks=[curves, *callbacks], **options
            )
        )
    return histories


def make_captioner(
    decoder: Decoder | Ensemble,
    inputs: Inputs,
    words: Words,
    *,
    beams: int = 20,
    neighbours: int = 10,
    match: bool = True,
    **search: Any,
) -> Captioner:
    """Make the captioner of a trained decoder.

    Args:
        decoder: the trained decoder or ensemble.
        inputs, words: what it was trained and validated on.
        beams: beam width.
        neighbours: captions of the nearest training images that rerank the candidates; 0 for none.
        match: whether to make captions as long as the validation split's.
        search: further options of `Search`.
    """
    captioner = Captioner(
        decoder, words.tokenizer, Search(beams, neighbours=neighbours, **search),
        sizes=decoder.members[0].sizes, encoder=inputs.encoder,
    )  # fmt: skip
    if neighbours:
        captioner.consensus = Consensus.fit(
            decoder, inputs.features["train"], words.tokens["train"]
        )
    if match and captioner.search.beams > 1:
        captioner.search = match_length(
            captioner, inputs.features["validation"], words.tokens["validation"]
        )
    return captioner


def caption_test_images(
    captioner: Captioner, inputs: Inputs, folder: str | os.PathLike
) -> pd.DataFrame:
    """Caption the test images, and write `captions.csv` into the run's folder.

    Returns:
        DataFrame[id, reference, caption, log_probability], one row per image.
    """
    test = inputs.frames["test"]
    captions = test[["id", "caption"]].rename(columns={"caption": "reference"})
    captions[["caption", "log_probability"]] = captioner.caption_features(inputs.features["test"])
    write_text(Path(folder) / "captions.csv", captions.to_csv(index=False))
    return captions


def caption_by_baselines(
    captioner: Captioner, inputs: Inputs, captions: Sequence[str]
) -> dict[str, Any]:
    """Return what the model's captions are to be compared with, in the order of the score table.

    Args:
        captioner: the model.
        inputs: its test images, and the training images that baselines copy from.
        captions: the model's captions of the test images.

    Returns:
        {system: n captions, or several runs of n captions}: the model, the model decoding greedily,
        its captions under other images, its caption of the average image for all, the nearest
        training image's caption, the consensus of the nearest ones, the most frequent caption.
    """
    captions, vectors, n = list(captions), inputs.vectors, len(captions)
    greedy = captioner.caption_features(inputs.features["test"], Search(beams=1, no_repeat=0))
    average = captioner.caption_features(mean_image(inputs.features["train"]))[0].text
    orders = [baselines.shuffled(n, seed, inputs.cases["test"]) for seed in range(5)]
    known = vectors["train"], list(inputs.frames["train"].caption)
    return {
        "this model": captions,
        "this model, greedy": [caption.text for caption in greedy],
        SHUFFLED: [[captions[i] for i in order] for order in orders],
        "average image for all": [average] * n,
        "nearest image's caption": baselines.nearest_captions(*known, vectors["test"]),
        "consensus of the nearest": baselines.consensus_captions(*known, vectors["test"]),
        "most frequent caption": baselines.most_frequent_caption(known[1], n),
    }


def score(
    systems: Mapping[str, Any], inputs: Inputs, folder: str | os.PathLike, *, seed: int = 1
) -> pd.DataFrame:
    """Score systems on the test images, and write `scores.csv` into the run's folder.

    Args:
        systems: of `caption_by_baselines`.
        inputs: the test images' captions and cases.
        folder: of the run.
        seed: of the bootstrap.

    Returns:
        As `score_table` says.
    """
    table = score_table(
        list(inputs.frames["test"].caption), systems, groups=inputs.cases["test"], seed=seed,
        train_captions=list(inputs.frames["train"].caption),
    )  # fmt: skip
    write_text(Path(folder) / "scores.csv", table.to_csv())
    return table


def score_phantoms(systems: Mapping[str, Any], references: Sequence[str]) -> pd.DataFrame:
    """Return the share of each system's captions that name what their phantom shows.

    Args:
        systems: {name: n captions, or several runs of n captions}.
        references: n captions of phantoms, which state the truth.
    """
    rows = {}
    for name, captions in systems.items():
        runs = [captions] if isinstance(captions[0], str) else captions
        shares = pd.DataFrame([shares_right(references, run) for run in runs])
        rows[name] = shares.mean()
    return pd.DataFrame(rows).T
