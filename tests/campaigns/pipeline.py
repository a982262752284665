"""The whole pipeline in small, as the notebook calls it, for those who kill it on its way.

Its steps are slowed down and its saves come often, so that a kill at a random moment meets each of
them: FLUSH and SAVE stand for the 5 and 20 seconds of the real ones.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from roco_caption.core.files import write_json, write_text
from roco_caption.data import archive
from roco_caption.data import kaggle as download
from roco_caption.data.phantoms import dataset as phantoms
from roco_caption.data.roco import read_dataset
from roco_caption.decoder.model import build_decoder
from roco_caption.decoder.scaler import fit_scaler
from roco_caption.features import cache as feature_cache
from roco_caption.features import given as features
from roco_caption.search.captioner import Captioner, Search
from roco_caption.search.rerank import Consensus
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training import loop as training

COUNTS = {"train": 48, "validation": 8, "test": 8}
STAGES = ("phantoms", "download", "unpack", "features", "tokens", "training", "decoding", "bundle")
FLUSH = SAVE = 0.15  # seconds
EPOCHS = 3


def run(folder: Path, kaggle: str, stage: Callable[[str], None], unit: Callable[[], None]) -> None:
    """Run it in `folder`.

    Args:
        folder: takes all that is made; `result.json` last, with what the end is judged by.
        kaggle: address of the server that stands for Kaggle; empty for the phantoms alone.
        stage: called with each stage's name as it begins.
        unit: called after each piece of work.
    """
    _slow_down(stage, unit)
    stage("phantoms")
    phantoms.make_phantoms(folder / "phantoms", **COUNTS, progress=False)
    if not kaggle:
        return
    stage("download")
    download.SERVER = kaggle
    root = download.download_roco(folder / "roco")
    stage("features")
    frames, _ = read_dataset(root)
    listed = pd.concat(frames.values())
    made = features.extract_features(
        dict(zip(listed.id, listed.image, strict=True)), folder / "features", weights="random",
        batch_size=4,
    )  # fmt: skip
    frames, vectors, _ = features.with_features(frames, made)
    run_folder = folder / "run"
    stage("tokens")
    tokenizer = CaptionTokenizer.fit(frames["train"].caption, min_frequency=2, max_words=30)
    tokenizer.save(run_folder / "tokenizer.json")
    tokens = {split: tokenizer.encode(frame.caption) for split, frame in frames.items()}
    stage("training")
    keras.utils.set_random_seed(1)
    sizes = {
        "mentions": 1.0,
        "vocab_size": tokenizer.vocab_size, "max_len": 31, "components": 8, "embedding_size": 8,
        "units": 12, "feature_size": vectors["train"].shape[1], "dropout": 0.3,
    }  # fmt: skip
    decoder = build_decoder(**sizes)
    decoder.next_word.get_layer("scaler").set_weights(fit_scaler(vectors["train"], 8))
    data = {split: training.CaptionData(vectors[split], tokens[split]) for split in frames}
    history = training.train(
        decoder, data["train"], data["validation"], run_folder, epochs=EPOCHS, batch_size=8
    )
    stage("decoding")
    captioner = Captioner(
        decoder, tokenizer, sizes=sizes, encoder=made.encoder,
        search=Search(beams=4, neighbours=3),
    )  # fmt: skip
    captioner.consensus = Consensus.fit(decoder, vectors["train"], tokens["train"])
    captions = frames["test"][["id", "caption"]].rename(columns={"caption": "reference"})
    captions[["caption", "log_probability"]] = captioner.caption_features(vectors["test"])
    stage("bundle")
    captioner.save(run_folder)
    write_text(run_folder / "captions.csv", captions.to_csv(index=False))
    loaded = Captioner.load(run_folder)
    again = loaded.caption_features(vectors["test"])
    result = {
        "features": _digest(made.select(sorted(made.ids)), *sorted(made.ids)),
        "history": history.to_csv(),
        "weights": _digest(*loaded.decoder.every_word.get_weights()),
        "captions again": [caption.text for caption in again],
        "captions": (run_folder / "captions.csv").read_text("utf-8"),
        "history file": (run_folder / "history.csv").read_text("utf-8"),
        "phantoms and ROCO": _digest(*_files(folder / "phantoms"), *_files(folder / "roco")),
        "leftovers": [str(p.relative_to(folder)) for p in folder.rglob("*.damaged")],
    }
    write_json(folder / "result.json", result)
    stage("end")


def _files(folder: Path) -> list[bytes | str]:
    paths = sorted((folder / "all_data").rglob("*.*"))
    return [part for path in paths for part in (path.name, path.read_bytes())]


def _digest(*parts: np.ndarray | bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _slow_down(stage: Callable[[str], None], unit: Callable[[], None]) -> None:
    """Make each stage last about a second, report its pieces, and keep renames apart."""

    def slowed(function: Callable, seconds: float, before: float = 0, count: bool = True):
        @functools.wraps(function)
        def wrapper(*arguments, **options):
            time.sleep(before)
            result = function(*arguments, **options)
            time.sleep(seconds)
            if count:
                unit()
            return result

        return wrapper

    os.replace = slowed(os.replace, 0.003, 0.003, count=False)
    os.fsync = lambda _: time.sleep(0.003)  # a kill loses nothing that was written
    phantoms.draw = slowed(phantoms.draw, 0)
    download.CHUNK = 8192
    bar = download.progress_bar

    def counting(**options):
        shown = bar(**options)
        shown.update = slowed(shown.update, 0)
        return shown

    download.progress_bar = counting
    unpack = download.unpack_radiology
    download.unpack_radiology = lambda *a: (stage("unpack"), unpack(*a))[1]
    archive._unpack = slowed(archive._unpack, 0.01)
    features.build_encoder = lambda *a, **o: _encoder(slowed)
    training._step = slowed(training._step, 0.04)
    feature_cache.FLUSH_SECONDS = FLUSH
    training.SAVE_SECONDS = SAVE


def _encoder(slowed: Callable) -> keras.Model:
    """A convolution and a dense layer in VGG16's place; an image's features do not depend on
    which images share its batch."""
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    start = keras.initializers.HeNormal(seed=5)
    x = keras.ops.cast(pixels, "float32") / 255
    x = keras.layers.Conv2D(12, 16, 16, activation="relu", kernel_initializer=start)(x)
    x = keras.layers.MaxPooling2D(4)(x)
    x = keras.layers.Dense(24, kernel_initializer=keras.initializers.HeNormal(seed=6))(
        keras.layers.Flatten()(x)
    )
    model = keras.Model(pixels, x, name="vgg16")
    model.predict_on_batch = slowed(model.predict_on_batch, 0.06)
    return model


def read_result(folder: Path) -> dict:
    """Return what `run` left in `result.json`."""
    return json.loads((folder / "result.json").read_text("utf-8"))
