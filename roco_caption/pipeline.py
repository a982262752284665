"""The stages of the notebook, from images to scored captions, one function each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from roco_caption.core.backup import backed_up, bring_back
from roco_caption.core.errors import UserError
from roco_caption.core.files import lock
from roco_caption.core.machine import attached
from roco_caption.core.progress import tensorboard
from roco_caption.data.roco import Source, locate_dataset, parse_counts, read_dataset
from roco_caption.data.texts import read_texts  # noqa: F401  a stage as well
from roco_caption.decoder.model import Decoder, Ensemble, build_decoder, combine, fit_scalers
from roco_caption.features.extract import extract_features
from roco_caption.features.given import read_features_file, with_grid_file
from roco_caption.features.inputs import (  # index_words is a stage as well
    Frames,
    Inputs,
    Words,
    index_words,  # noqa: F401
    select_inputs,
)
from roco_caption.features.table import Features, arrays_of
from roco_caption.scores.coherence import Coherence
from roco_caption.search.beam import Search
from roco_caption.search.captioner import Captioner
from roco_caption.search.compare import (  # the last stages  # noqa: F401
    SHUFFLED,
    caption_by_baselines,
    caption_test_images,
    score,
)
from roco_caption.search.rerank import Consensus, match_length
from roco_caption.training import runs
from roco_caption.training.batches import rank_of
from roco_caption.training.captions import CaptionData
from roco_caption.training.checkpoint import is_begun, member_folders, replace_run
from roco_caption.training.loop import identify, train


@dataclass(frozen=True)
class Data:
    """Where the data set is, its captions by split, and how many images each split uses."""

    source: Source
    frames: Frames
    counts: pd.DataFrame


def prepare_data(
    cache_dir: str | os.PathLike, *, phantoms: str = "768,48,300", limit: int = 0,
    columns: str = "", seed: int = 1, **options: Any,
) -> Data:  # fmt: skip
    """Find the data set, download or draw it if necessary, and read its captions.

    Args:
        cache_dir: for downloads and phantoms.
        phantoms: synthetic images to train, validate and test on.
        limit: images per split, for a quick try; 0 takes all.
        columns: of your own table, such as "image=scan, caption=report"; the usual names are known.
        seed, options: of `locate_dataset`, such as `source`, `platform`, `slow` and `copy`.

    Raises:
        UserError: there is no data set, the download failed, or a table cannot be read.
    """
    options |= {"phantom_counts": parse_counts(phantoms), "limit": limit, "seed": seed}
    source = locate_dataset(cache_dir, **options)
    print(source)
    return Data(source, *read_dataset(source.root, limit, columns=columns, seed=seed))


def read_or_encode(
    data: Data,
    cache_dir: str | os.PathLike,
    *,
    features_file: str = "",
    grid_file: str = "",
    attention: bool = False,
    copy: Path | None = None,
    **options: Any,
) -> Features:
    """Return the features of a data set's images.

    Args:
        data: of `prepare_data`.
        cache_dir: for the cache of features, in a folder per data set.
        features_file: an .npz of precomputed features, used instead of the encoder.
        grid_file: with attention, an .npz of precomputed grids.
        attention: whether grids are needed.
        copy: a folder that keeps a copy of the cache, see `backed_up`.
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
        for earlier in attached(f"features/{folder.name}"):  # output of a notebook on Kaggle
            bring_back(earlier, folder)
        with backed_up(folder, copy and copy / "features" / folder.name):
            features = extract_features(images, folder, with_grid=needs_grid, **options)
    return with_grid_file(features, grid_file) if attention and grid_file else features


def prepare_features(
    data: Data, cache_dir: str | os.PathLike, *, attention: bool = False, **options: Any
) -> Inputs:
    """Encode the images, or read precomputed features: `read_or_encode`, then `select_inputs`."""
    features = read_or_encode(data, cache_dir, attention=attention, **options)
    inputs = select_inputs(data.frames, features, attention=attention)
    return replace(inputs, name=data.source.name)


def make_decoder(
    inputs: Inputs, words: Words, *, members: int = 1, seed: int = 1, **sizes: Any
) -> Decoder | Ensemble:
    """Build the decoder, and fit its scalers to the training images.

    Args:
        inputs, words: the data; attention is used if they have grids.
        members, seed: how many to average; the first one's seed, each has its own.
        sizes: of `build_decoder`, other than those of the data.
    """
    inputs.refuse(words)
    vectors, *grids = arrays_of(inputs.features["train"])
    sizes |= {"vocab_size": words.tokenizer.vocab_size, "max_len": words.tokenizer.max_words + 1}
    sizes |= {"feature_size": vectors.shape[1]}
    if grids:
        sizes |= {"attention": True, "grid_size": grids[0].shape[1:]}
    built = []
    for k in range(members):
        keras.utils.set_random_seed(seed + k)
        built.append(build_decoder(**sizes))
        built[k].seed = seed + k
    decoder = combine(built)
    fit_scalers(decoder, inputs.features["train"], words.tokens["train"], inputs.cases["train"])
    return decoder


def run_folder(
    parent: str | os.PathLike,
    name: str,
    decoder: Decoder | Ensemble,
    inputs: Inputs,
    words: Words,
    checkpoint_dir: str = "",
    copy: Path | None = None,
    **schedule: Any,
) -> Path:
    """Return the folder of the training with these settings, see `training.runs.run_folder`.

    It is below `parent`, named for the data set, `name`, and the settings; or `checkpoint_dir`.
    Its files come back from `copy` if they are there, as `read_or_encode` describes it.
    The other arguments are the fields of `Schedule`, as `train_decoder` takes them. UserError if
    the inputs are of another data set.
    """
    if inputs.name not in ("", name):
        raise UserError(
            f"The features are of {inputs.name}, not of {name}. Run the cell that makes the "
            "features (`prepare_features`) and those after it again."
        )
    trainings = [
        identify(member, *_caption_data(member, inputs, words, k), **options)
        for k, (member, options) in enumerate(
            zip(decoder.members, _schedules(decoder, schedule), strict=True)
        )
    ]
    sizes, encoder = decoder.members[0].sizes, inputs.encoder
    counts = {split: len(frame) for split, frame in inputs.frames.items()}
    parts = [name, encoder["name"], "attention" if sizes["attention"] else ""]
    parts += [f"{len(trainings)}members" if len(trainings) > 1 else ""]
    parts += [f"{counts['train']}captions", f"{trainings[0]['epochs']}epochs"]
    record = {"data": name, "captions": counts, "features": encoder, "decoder": sizes}
    label = "-".join(filter(None, parts))
    return runs.run_folder(parent, label, record | {"trainings": trainings}, checkpoint_dir, copy)


def _caption_data(
    member: Decoder, inputs: Inputs, words: Words, k: int
) -> tuple[CaptionData, CaptionData]:
    """Return what member `k` learns from: every second one of an ensemble from images alone, as
    members that err differently correct each other."""
    inputs.refuse(words, member)
    texts = None if k % 2 else words.texts
    learn = CaptionData(inputs.features["train"], words.tokens["train"], member.ratings, texts)
    return learn, CaptionData(inputs.features["validation"], words.tokens["validation"])


def _schedules(decoder: Decoder | Ensemble, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each member's schedule: they differ in the seed of the batches."""
    schedule = {"seed": 1} | schedule
    return [schedule | {"seed": schedule["seed"] + k} for k in range(len(decoder.members))]


def train_decoder(
    decoder: Decoder | Ensemble,
    inputs: Inputs,
    words: Words,
    folder: str | os.PathLike,
    *,
    callbacks: Sequence[Callable] = (),
    retrain: bool = False,
    precision: str = "float32",
    strategy: Any = None,
    **schedule: Any,
) -> list[pd.DataFrame]:
    """Train the decoder, or each member of an ensemble; resume or reuse an earlier training.

    With `retrain`, all members' earlier trainings stay until the last one is finished.

    Args:
        decoder: of `make_decoder`.
        inputs, words, folder: what it is trained and validated on, and the run's folder.
        callbacks: called with the row of every epoch, see `train`; TensorBoard's is added.
        retrain, precision, strategy: of `train`.
        schedule: the fields of `Schedule`; `seed` is the first member's.

    Returns:
        The history of each member, see `train`; raises as that does.
    """
    histories, retrained = [], []
    places = member_folders(folder, len(decoder.members))
    begun = [k for k, place in enumerate(places) if is_begun(place)]
    for k, (place, options) in enumerate(zip(places, _schedules(decoder, schedule), strict=True)):
        again = retrain and k >= min(begun, default=0)  # those before are retrained already
        together = again and len(places) > 1  # members of two trainings do not fit
        retrained += [place] if together else []
        options |= {"retrain": again, "replace": not together}
        options |= {"precision": precision, "strategy": strategy}
        options["callbacks"] = [tensorboard(place / "tensorboard"), *callbacks]
        learn, tune = _caption_data(decoder.members[k], inputs, words, k)
        histories.append(train(decoder.members[k], learn, tune, place, **options))
    for place in retrained if rank_of(strategy) == 0 else ():
        with lock(place / ".lock", "training"):
            replace_run(place)
    return histories


def make_captioner(
    decoder: Decoder | Ensemble,
    inputs: Inputs,
    words: Words,
    *,
    beams: int = 5,
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
            Candidates that contradict themselves or break off then come last, see `Coherence`.
        match: whether to make captions as long as the validation split's.
        search: further options of `Search`.
    """
    inputs.refuse(words, *decoder.members)
    options = Search(beams, neighbours=neighbours, **search)
    captioner = Captioner(decoder, words.tokenizer, options, encoder=inputs.encoder)
    if neighbours:
        known = inputs.features["train"], words.tokens["train"]
        captioner.consensus = Consensus.fit(decoder, *known, inputs.once)
        captioner.coherence = Coherence.fit(list(inputs.frames["train"].caption))
    if match and beams > 1:
        tune = inputs.features["validation"], words.tokens["validation"]
        captioner.search = match_length(captioner, *tune)
    return captioner
