"""`python -m benchmarks.language FOLDER`: how fast the decoder should learn ROCO's language.

The captions, in `radiology/captions.txt` files below FOLDER, train the decoder without images
(random features of eight numbers, which say nothing); every eighth is held out. Each row is a
schedule, a size of the LSTM or a dropout, and prints the lowest held-out loss in nats per word of
each seed. `ROCO_EPOCHS` replaces the number of epochs.
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
from roco_caption.features.inputs import Inputs
from roco_caption.training import runs

SCHEDULES = [  # 4,032 steps each, then 1,680
    {"batch_size": 32, "epochs": 9, "learning_rate": 2e-3, "per_step": True},
    {"batch_size": 32, "epochs": 9, "learning_rate": 2e-3, "units": 512},
    {"batch_size": 32, "epochs": 9, "learning_rate": 2e-3, "dropout": 0.3},
    *({"batch_size": 32, "epochs": 9, "learning_rate": rate} for rate in (2e-3, 4e-3, 8e-3)),
    *(
        {"batch_size": 256, "epochs": 30, "learning_rate": rate}
        for rate in (2e-3, 4e-3, 8e-3, 16e-3)
    ),
]
EPOCHS, SEEDS = setting("EPOCHS", 0), setting("SEEDS", 2)


def read(folder: str) -> Inputs:
    """Return the captions as inputs without images."""
    paths = sorted(Path(folder).rglob("radiology/captions.txt"))
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
    print(f"{n:,} captions to learn from, {words.tokenizer.vocab_size:,} words")
    for schedule in SCHEDULES:
        options, losses = schedule | ({"epochs": EPOCHS} if EPOCHS else {}), []
        sizes = {name: options.pop(name) for name in ("units", "dropout") if name in options}
        if options.pop("per_step", False):  # 0.5 per step, however many there are
            options["weight_decay"] = 0.5 * -(-n // options["batch_size"]) / runs.DECAY_STEPS
        for seed in range(1, SEEDS + 1):
            decoder = pipeline.make_decoder(inputs, words, seed=seed, **sizes)
            with tempfile.TemporaryDirectory() as place:
                (history,) = pipeline.train_decoder(
                    decoder, inputs, words, place, seed=seed, precision=precision, **options
                )
            losses.append(history.val_loss.min())
        shown = ", ".join(f"{loss:.3f}" for loss in losses)
        print(f"{sizes | options}: {shown}; mean {np.mean(losses):.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
