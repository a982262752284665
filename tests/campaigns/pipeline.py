"""The notebook's stages with small data and many pauses, for those who kill it on its way.

Its steps are slowed down and its saves come often, so that a kill at a random moment hits each of
them: FLUSH and SAVE replace the 5 and 20 seconds of the real ones.
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

from roco_caption import pipeline
from roco_caption.core.files import write_json
from roco_caption.data import archive, kaggle
from roco_caption.data.phantoms import dataset as phantoms
from roco_caption.features import cache, extract
from roco_caption.search.captioner import Captioner
from roco_caption.training import loop

COUNTS = {"train": 48, "validation": 8, "test": 8}
STAGES = ("phantoms", "download", "unpack", "features", "tokens", "training", "decoding", "bundle")
FLUSH = SAVE = 0.15  # seconds
EPOCHS = 3
SIZES = {"components": 8, "embedding_size": 8, "units": 12, "dropout": 0.3}


def run(folder: Path, server: str, stage: Callable[[str], None], unit: Callable[[], None]) -> None:
    """Run it in `folder`.

    Args:
        folder: takes all files; `result.json` last, by which the end is judged.
        server: address of the server in Kaggle's place; empty for the phantoms alone.
        stage: called with each stage's name as it begins.
        unit: called after each piece of work.
    """
    _slow_down(stage, unit)
    stage("phantoms")
    phantoms.make_phantoms(folder / "phantoms", **COUNTS, progress=False)
    if not server:
        return
    stage("download")
    kaggle.SERVER = server
    data = pipeline.prepare_data(folder, source="kaggle")
    stage("features")
    features = pipeline.read_or_encode(data, folder, weights="random", seed=0, batch_size=4)
    inputs = pipeline.select_inputs(data.frames, features)
    run_folder = folder / "run"
    stage("tokens")
    words = pipeline.index_words(inputs.frames, min_frequency=2, max_words=30)
    words.tokenizer.save(run_folder / "tokenizer.json")
    stage("training")
    decoder = pipeline.make_decoder(inputs, words, **SIZES)
    (history,) = pipeline.train_decoder(
        decoder, inputs, words, run_folder, epochs=EPOCHS, batch_size=8
    )
    stage("decoding")
    captioner = pipeline.make_captioner(decoder, inputs, words, beams=4, neighbours=3, match=False)
    pipeline.caption_test_images(captioner, inputs, run_folder)
    stage("bundle")
    captioner.save(run_folder)
    loaded = Captioner.load(run_folder)
    again = loaded.caption_features(inputs.features["test"])
    result = {
        "features": _digest(features.select(sorted(features.ids)), *sorted(features.ids)),
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
    kaggle.CHUNK = 8192
    bar = kaggle.progress_bar

    def counting(**options):
        shown = bar(**options)
        shown.update = slowed(shown.update, 0)
        return shown

    kaggle.progress_bar = counting
    unpack = kaggle.unpack_radiology
    kaggle.unpack_radiology = lambda *a: (stage("unpack"), unpack(*a))[1]
    archive._unpack = slowed(archive._unpack, 0.01)
    extract.build_encoder = lambda *a, **o: _encoder(slowed)
    loop.Replicas.train_on_batch = slowed(loop.Replicas.train_on_batch, 0.04)
    cache.FLUSH_SECONDS = FLUSH
    loop.SAVE_SECONDS = SAVE


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
