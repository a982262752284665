"""The stages of the notebook, from images to scored captions, one function each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import write_text
from roco_caption.core.machine import set_seeds
from roco_caption.core.progress import tensorboard
from roco_caption.data.roco import Source, locate_dataset, read_dataset
from roco_caption.decoder.model import Decoder, Ensemble, build_decoder, combine, fit_scalers
from roco_caption.features.extract import extract_features
from roco_caption.features.given import read_features_file, with_grid_file
from roco_caption.features.table import Features, Inputs, arrays_of, mean_image, select_inputs
from roco_caption.scores import baselines
from roco_caption.scores.table import score_table
from roco_caption.search.beam import Search
from roco_caption.search.captioner import Captioner
from roco_caption.search.rerank import Consensus, match_length
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.checkpoint import member_folder
from roco_caption.training.loop import CaptionData, train

Frames = dict[str, pd.DataFrame]  # {split: DataFrame[id, image, caption]}
SHUFFLED = "images shuffled (mean of 5)"


@dataclass(frozen=True)
class Data:
    """Where the data set is, its captions by split, and how many images each split uses."""

    source: Source
    frames: Frames
    counts: pd.DataFrame


@dataclass(frozen=True)
class Words:
    """The vocabulary, and the captions as the decoder takes them: {split: int32 (n, length)}."""

    tokenizer: CaptionTokenizer
    tokens: dict[str, np.ndarray]


def prepare_data(
    cache_dir: str | os.PathLike, *, phantoms: str = "768,48,300", limit: int = 0, **options: Any
) -> Data:
    """Find the data set, download or draw it if necessary, and read its captions.

    Args:
        cache_dir: for downloads and phantoms.
        phantoms: synthetic images to train, validate and test on.
        limit: images per split, for a quick try; 0 takes all.
        options: of `locate_dataset`: `data_dir`, `source`, `platform`, `seed`.

    Raises:
        UserError: there is no data set, the download failed, or a table cannot be read.
    """
    counts = phantoms.split(",")
    if len(counts) != 3 or not all(count.strip().isdigit() for count in counts):
        raise UserError(
            f"PHANTOMS must be three whole numbers such as '768,48,300', got {phantoms!r}."
        )
    sizes = int(counts[0]), int(counts[1]), int(counts[2])
    source = locate_dataset(cache_dir, phantom_counts=sizes, **{"seed": 1} | options)
    print(source)
    return Data(source, *read_dataset(source.root, limit))


def read_or_encode(
    data: Data,
    cache_dir: str | os.PathLike,
    *,
    features_file: str = "",
    grid_file: str = "",
    attention: bool = False,
    **options: Any,
) -> Features:
    """Return the features of a data set's images.

    Args:
        data: of `prepare_data`.
        cache_dir: for the cache of features, in a folder per data set.
        features_file: an .npz of precomputed features, used instead of the encoder.
        grid_file: with attention, an .npz of precomputed grids.
        attention: whether grids are needed.
        options: of `extract_features`: `encoder`, `weights`, `precision`, `seed`.

    Raises:
        UserError: as `extract_features` says, or a file is not such an .npz.
    """
    needs_grid = attention and not grid_file
    listed = pd.concat(data.frames.values())
    if features_file:
        features = read_features_file(features_file, with_grid=needs_grid, ids=listed.id)
    else:
        images = dict(zip(listed.id, listed.image, strict=True))
        folder = Path(cache_dir) / "features" / data.source.name
        options = {"seed": 1, "allow_random": data.source.synthetic} | options
        features = extract_features(images, folder, with_grid=needs_grid, **options)
    return with_grid_file(features, grid_file) if attention and grid_file else features


def prepare_features(
    data: Data, cache_dir: str | os.PathLike, *, attention: bool = False, **options: Any
) -> Inputs:
    """Encode the images, or read precomputed features: `read_or_encode`, then `select_inputs`."""
    features = read_or_encode(data, cache_dir, attention=attention, **options)
    return select_inputs(data.frames, features, attention=attention)


def index_words(frames: Frames, *, min_frequency: int = 3, max_words: int = 50) -> Words:
    """Make the vocabulary of the training captions, and encode all captions with it.

    Args:
        frames: captions by split.
        min_frequency: words that are rarer in the training captions become unknown.
        max_words: longer captions are truncated.

    Raises:
        UserError: no word is that frequent.
    """
    captions = {split: list(frame.caption) for split, frame in frames.items()}
    tokenizer = CaptionTokenizer.fit(
        captions["train"], min_frequency=min_frequency, max_words=max_words
    )
    return Words(tokenizer, {split: tokenizer.encode(texts) for split, texts in captions.items()})


def make_decoder(
    inputs: Inputs, words: Words, *, members: int = 1, seed: int = 1, **sizes: Any
) -> Decoder | Ensemble:
    """Build the decoder, and fit its scalers to the training images.

    Args:
        inputs, words: the data; attention is used if they have grids.
        members: decoders to average; each starts from its own seed.
        seed: of the first one's initial weights.
        sizes: of `build_decoder`, other than those of the data.
    """
    vectors, *grids = arrays_of(inputs.features["train"])
    sizes |= {"vocab_size": words.tokenizer.vocab_size, "max_len": words.tokenizer.max_words + 1}
    sizes |= {"feature_size": vectors.shape[1]}
    if grids:
        sizes |= {"attention": True, "grid_size": grids[0].shape[1:]}
    built = []
    for k in range(members):
        set_seeds(seed + k)
        built.append(build_decoder(**sizes))
    decoder = combine(built)
    fit_scalers(decoder, inputs.features["train"], words.tokens["train"], inputs.cases["train"])
    return decoder


def run_folder(
    root: str | os.PathLike, data: Data, inputs: Inputs, checkpoint_dir: str = ""
) -> Path:
    """Return the folder for a run's files: `checkpoint_dir`, or one below `root` named for it."""
    if checkpoint_dir:
        return Path(checkpoint_dir).expanduser()
    attention = "-attention" if isinstance(inputs.features["train"], tuple) else ""
    return Path(root) / "checkpoints" / f"{data.source.name}-{inputs.encoder['name']}{attention}"


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
    """Train the decoder, or each member of an ensemble; resume or reuse an earlier training.

    Args:
        decoder: of `make_decoder`.
        inputs, words: what it is trained and validated on.
        folder: of the run.
        seed: of the first member's batches.
        callbacks: called with the row of every epoch, see `train`; TensorBoard's is added.
        options: further ones of `train`.

    Returns:
        The history of each member, see `train`.

    Raises:
        UserError: as `train` says.
    """
    learn = CaptionData(inputs.features["train"], words.tokens["train"])
    tune = CaptionData(inputs.features["validation"], words.tokens["validation"])
    histories = []
    for k, member in enumerate(decoder.members):
        place = member_folder(folder, k)
        options |= {"seed": seed + k, "callbacks": [tensorboard(place / "tensorboard"), *callbacks]}
        histories.append(train(member, learn, tune, place, **options))
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
    options = Search(beams, neighbours=neighbours, **search)
    captioner = Captioner(decoder, words.tokenizer, options, encoder=inputs.encoder)
    if neighbours:
        known = inputs.features["train"], words.tokens["train"]
        captioner.consensus = Consensus.fit(decoder, *known)
    if match and beams > 1:
        tune = inputs.features["validation"], words.tokens["validation"]
        captioner.search = match_length(captioner, *tune)
    return captioner


def caption_test_images(
    captioner: Captioner, inputs: Inputs, folder: str | os.PathLike
) -> pd.DataFrame:
    """Caption the test images, and write `captions.csv` into the run's folder.

    Returns:
        DataFrame[id, reference, caption, log_probability], one row per image.
    """
    captions = inputs.frames["test"][["id", "caption"]].rename(columns={"caption": "reference"})
    captions[["caption", "log_probability"]] = captioner.caption_features(inputs.features["test"])
    write_text(Path(folder) / "captions.csv", captions.to_csv(index=False))
    return captions


def caption_by_baselines(
    captioner: Captioner, inputs: Inputs, captions: Sequence[str]
) -> dict[str, Any]:
    """Return the captions of the test images by the model and by what it is compared with.

    Args:
        captioner: the model.
        inputs: the test images, and the training images that baselines copy from.
        captions: the model's, of the test images.

    Returns:
        {system: n captions, or several runs of n captions}, the model first.
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
    """Score systems on the test images with `score_table`, and write `scores.csv`."""
    table = score_table(
        list(inputs.frames["test"].caption), systems, groups=inputs.cases["test"], seed=seed,
        train_captions=list(inputs.frames["train"].caption),
    )  # fmt: skip
    write_text(Path(folder) / "scores.csv", table.to_csv())
    return table
