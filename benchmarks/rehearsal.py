"""`make rehearsal`: the notebook's stages at half of ROCO's size and at all of it.

Features are synthetic, which changes neither time nor memory. Captions are made of halves of those
in `ROCO_CAPTIONS_FILE` (tab-separated, the caption last), or else of phantoms'. Training has one
epoch, after which captions are as long as ROCO's and say little. Prints one JSON object per size,
from a process of its own, then a table: twice the data should take twice as long.
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
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from benchmarks import captions_of
from roco_caption.core.machine import detect, setting

# ROCO's radiology images that can be decoded
IMAGES = {"train": 65_450, "validation": 8_180, "test": 8_180}
EPOCHS = 30  # the notebook's, for the cost of a whole training
ROWS = 4096  # features drawn at once


def known_captions() -> list[str]:
    """Return the captions of `ROCO_CAPTIONS_FILE`, or phantoms'."""
    path = setting("CAPTIONS_FILE", "")
    if path:
        return captions_of(path)
    from roco_caption.data.phantoms.dataset import make_phantoms
    from roco_caption.data.roco import read_dataset

    with tempfile.TemporaryDirectory() as folder:
        root = make_phantoms(folder, train=600, validation=8, test=8, progress=False)
        return list(read_dataset(root)[0]["train"].caption)


def mixed(captions: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Join first and second halves of random captions, so that nearly all differ, as ROCO's do."""
    words = [caption.split() for caption in captions]
    pairs = ((words[i], words[k]) for i, k in rng.integers(0, len(words), (count, 2)))
    return [" ".join(a[: (len(a) + 1) // 2] + b[(len(b) + 1) // 2 :]) for a, b in pairs]


def synthetic_inputs(share: float) -> tuple:
    """Return `Inputs` of random features, float16 (n, 4096), at a share of ROCO's size."""
    from roco_caption.features.inputs import Inputs

    rng, captions = np.random.default_rng(0), known_captions()
    frames, features = {}, {}
    for split, images in IMAGES.items():
        n = max(int(images * share), 2)
        features[split] = np.empty((n, 4096), np.float16)
        for start in range(0, n, ROWS):
            part = features[split][start : start + ROWS]
            part[:] = rng.standard_gamma(0.5, part.shape, np.float32)
        ids = [f"{split}{i}" for i in range(n)]
        frames[split] = pd.DataFrame({"id": ids, "caption": mixed(captions, n, rng)})
    return Inputs(frames, features, {"name": "synthetic"}, [])


def peak_memory() -> float:
    """Return the largest memory that this process has held so far, in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def rehearse(share: float) -> dict[str, object]:
    """Run the notebook's stages with one epoch; return their seconds and memory, and sizes."""
    from roco_caption import pipeline
    from roco_caption.scores import clinical, table
    from roco_caption.scores.baselines import find_leaks

    stages: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - start, 1)
        stages[name] = {"seconds": seconds, "peak_gib": peak_memory()}
        print(f"{name}: {seconds} s", file=sys.stderr, flush=True)

    with timed("(drawing the features)"):
        inputs = synthetic_inputs(share)
    with timed("leaks"):
        find_leaks(inputs.frames, inputs.vectors)
    with timed("words"):
        words = pipeline.index_words(inputs.frames)
    with timed("decoder and scalers"):
        decoder = pipeline.make_decoder(inputs, words)
    with tempfile.TemporaryDirectory() as parent, contextlib.redirect_stdout(sys.stderr):
        schedule = {"epochs": 1, "batch_size": "auto"}
        with timed("one epoch"):
            folder = pipeline.run_folder(parent, "rehearsal", decoder, inputs, words, **schedule)
            options = schedule | {"precision": detect().precision}
            pipeline.train_decoder(decoder, inputs, words, folder, **options)
        with timed("captioner, length matching"):
            captioner = pipeline.make_captioner(decoder, inputs, words)
            captioner.save(folder)
        with timed("captions"):
            captions = pipeline.caption_test_images(captioner, inputs, folder)
        with timed("CIDEr of each caption"):
            table.caption_scores(inputs.references, captions.caption)
        with timed("baselines"):
            systems = pipeline.caption_by_baselines(captioner, inputs, captions.caption)
        with timed("scores"):
            pipeline.score(systems, inputs, folder)
        files = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    references = captions.reference
    with timed("breakdown"):
        for groups in (
            references.map(clinical.modality_of), references.map(clinical.region_of),
            table.length_quartiles(references),
        ):  # fmt: skip
            table.breakdown(inputs.references, captions.caption, groups)
    with timed("slips"):
        for name in ("this model", "nearest image's caption", "most frequent caption"):
            clinical.slips(inputs.references, systems[name])
    return {
        "share": share, "stages": stages,
        "images": {split: len(frame) for split, frame in inputs.frames.items()},
        "vocab_size": words.tokenizer.vocab_size,
        "words_decoded": sum(len(caption.split()) + 1 for caption in captions.caption),
        "features_gib": round(sum(a.nbytes for a in inputs.vectors.values()) / 2**30, 2),
        "run_gib": round(files / 2**30, 2), "cpus": os.cpu_count(), "precision": detect().precision,
        "hours_of_all_epochs": round(EPOCHS * stages["one epoch"]["seconds"] / 3600, 2),
    }  # fmt: skip


def as_table(results: list[dict]) -> str:
    """Return seconds and the process's peak memory so far, per stage and size, in Markdown."""
    counts = [f"{result['images']['train']:,} training images" for result in results]
    lines = ["| stage |" + "".join(f" {count}: s | peak so far, GiB |" for count in counts)]
    lines.append("| --- |" + " --- |" * 2 * len(results))
    for name in results[0]["stages"]:
        cells = [result["stages"][name] for result in results]
        lines.append(f"| {name} |" + "".join(f" {c['seconds']} | {c['peak_gib']} |" for c in cells))
    sums = [sum(stage["seconds"] for stage in result["stages"].values()) for result in results]
    lines.append("| all |" + "".join(f" {total:.1f} | |" for total in sums) + "\n")
    for count, result in zip(counts, results, strict=True):
        lines.append(
            f"{count}: vocabulary {result['vocab_size']:,}, {result['words_decoded']:,} words "
            f"decoded, {result['features_gib']} GiB of features, {EPOCHS} epochs in "
            f"{result['hours_of_all_epochs']} h"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Rehearse at one size and print JSON, or with no or several sizes a process each."""
    if len(arguments) == 1:
        print(json.dumps(rehearse(float(arguments[0]))), flush=True)
        return
    results = []
    for share in arguments or ("0.5", "1"):  # a process each, for its peak memory
        command = [sys.executable, "-m", "benchmarks.rehearsal", share]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        line = done.stdout.splitlines()[-1]
        print(line, flush=True)
        results.append(json.loads(line))
    print(as_table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
