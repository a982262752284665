"""`python -m benchmarks.language FOLDER`: how fast the decoder should learn ROCO's language.

The captions, in `radiology/captions.txt` files below FOLDER, train the decoder without images
(random features of eight numbers, which say nothing); every eighth is held out. Each row is a
schedule, or a size of the LSTM, and prints the lowest held-out loss in nats per word of each seed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from roco_caption import pipeline
from roco_caption.core.machine import detect, setting
from roco_caption.features.table import Inputs
from roco_caption.training import runs

SCHEDULES = [
    {"batch_size": 32, "per_step": True},
    {"batch_size": 32},
    {"batch_size": 32, "units": 512},
    {"batch_size": 256},
    {"batch_size": 256, "learning_rate": 4e-3},
]
EPOCHS, SEEDS = setting("EPOCHS", 6), setting("SEEDS", 2)


def read(folder: str) -> Inputs:
    """Return the captions as inputs without images."""
    paths = sorted(Path(folder).rglob("captions.txt"))
    rows = [line.split("\t") for path in paths for line in path.read_text("utf-8").splitlines()]
    frame = pd.DataFrame([(row[0], row[-1].strip()) for row in rows], columns=["id", "caption"])
    held_out = np.arange(len(frame)) % 8 == 0
    parts = {"train": frame[~held_out], "validation": frame[held_out], "test": frame[held_out]}
    frames = {name: part.reset_index(drop=True) for name, part in parts.items()}
    rng = np.random.default_rng(0)
    features = {n: rng.normal(size=(len(f), 8)).astype(np.float16) for n, f in frames.items()}
    return Inputs(frames, features, {"name": "none"}, [])


def main(folder: str) -> None:
    """Train and print each schedule."""
    inputs, precision = read(folder), detect().precision
    words = pipeline.index_words(inputs.frames)
    n = len(inputs.frames["train"])
    print(f"{n:,} captions to learn from, {words.tokenizer.vocab_size:,} words, {EPOCHS} epochs")
    for schedule in SCHEDULES:
        options, losses = dict(schedule), []
        units = options.pop("units", 256)
        if options.pop("per_step", False):  # 0.5 per step, however many there are
            options["weight_decay"] = 0.5 * -(-n // options["batch_size"]) / runs.DECAY_STEPS
        for seed in range(1, SEEDS + 1):
            decoder = pipeline.make_decoder(inputs, words, seed=seed, units=units)
            with tempfile.TemporaryDirectory() as place:
                (history,) = pipeline.train_decoder(
                    decoder, inputs, words, place, seed=seed, epochs=EPOCHS, precision=precision,
                    **options,
                )  # fmt: skip
            losses.append(history.val_loss.min())
        shown = ", ".join(f"{loss:.3f}" for loss in losses)
        print(f"{units} units, {options}: {shown}; mean {np.mean(losses):.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
