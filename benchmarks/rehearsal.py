"""`make rehearsal`: an epoch and decoding of the test split at ROCO's size: seconds and memory.

Features are synthetic, which changes neither time nor memory; captions are sampled from
`ROCO_CAPTIONS_FILE` (tab-separated, the caption last), or else are phantoms'. Prints one JSON
object for half of ROCO and one for all of it: twice the data should take twice as long.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from roco_caption.core.machine import detect, setting

TRAINING, TEST = 65_450, 8_180  # ROCO's radiology images that can be decoded


def captions(count: int) -> list[str]:
    """Sample captions, with replacement."""
    path = setting("CAPTIONS_FILE", "")
    if path:
        known = list(pd.read_csv(path, sep="\t", header=None, quoting=3).iloc[:, -1])
    else:
        from roco_caption.data.phantoms.dataset import make_phantoms
        from roco_caption.data.roco import read_dataset

        with tempfile.TemporaryDirectory() as folder:
            root = make_phantoms(folder, train=600, validation=8, test=8, progress=False)
            known = list(read_dataset(root)[0]["train"].caption)
    return list(np.random.default_rng(0).choice(known, count))


def synthetic_inputs(share: float) -> tuple:
    """Return `Inputs` of random features at a share of ROCO's size; 1,024 images validate."""
    from roco_caption.features.table import Inputs

    rng, n = np.random.default_rng(0), int(TRAINING * share)
    features = np.empty((n, 4096), np.float16)
    for start in range(0, n, 4096):
        features[start : start + 4096] = rng.gamma(0.5, 1.0, features[start : start + 4096].shape)
    frame = pd.DataFrame({"id": [f"{i}" for i in range(n)], "caption": captions(n)})
    rows = {"train": slice(None), "validation": slice(1024), "test": slice(int(TEST * share))}
    frames = {split: frame[part] for split, part in rows.items()}
    return Inputs(frames, {split: features[part] for split, part in rows.items()}, {}, [])


def rehearse(share: float) -> dict[str, float]:
    """Run the notebook's stages with one epoch; return seconds, and peak memory in GiB."""
    from roco_caption import pipeline

    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 1)

    inputs = synthetic_inputs(share)
    with timed("words"):
        words = pipeline.index_words(inputs.frames)
    with timed("scaler"):
        decoder = pipeline.make_decoder(inputs, words)
    with timed("epoch"), tempfile.TemporaryDirectory() as folder:
        pipeline.train_decoder(
            decoder, inputs, words, folder, epochs=1, batch_size=256, precision=detect().precision
        )
    with timed("length"):
        captioner = pipeline.make_captioner(decoder, inputs, words)
    with timed("decoding"):
        written = captioner.caption_features(inputs.features["test"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds | {
        "training_captions": len(inputs.frames["train"]), "test_captions": len(written),
        "vocab_size": words.tokenizer.vocab_size,
        "words_decoded": sum(len(caption.text.split()) + 1 for caption in written),
        "features_gb": round(inputs.features["train"].nbytes / 2**30, 2),
        "peak_memory_gb": round(peak, 2),
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(rehearse(float(sys.argv[1]))), flush=True)
    else:
        for part in ("0.5", "1"):  # a process each, for its peak memory
            subprocess.run([sys.executable, "-m", "benchmarks.rehearsal", part], check=True)
