"""`make experiments`: variants of the decoder compared, then the best on the test split.

Each variant is trained once per fold, from a different seed each time, on the training and
validation images without the fold, and scored on the fold: choices may rest on that. Then those
named in `ROCO_FINAL` are trained on the training split from `ROCO_SEEDS` seeds and scored on the
test split, separately and as one ensemble, next to the baselines. With `ROCO_MEMBERS` each seed
is an ensemble of that many. The first seed's captions are written to a CSV. All trainings are
kept, so that a second run only prints.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from roco_caption import pipeline
from roco_caption.core.machine import detect, setting
from roco_caption.data.cases import cases_in
from roco_caption.decoder.model import combine
from roco_caption.features.inputs import Inputs, select_inputs
from roco_caption.features.table import Features
from roco_caption.scores import baselines
from roco_caption.scores.coherence import Coherence
from roco_caption.scores.phantoms import score_phantoms
from roco_caption.scores.table import score_table
from roco_caption.search.captioner import Captioner
from roco_caption.training.captions import CaptionData
from roco_caption.training.loop import evaluate_loss

# What differs from the notebook: in the decoder, in training, in the search.
VARIANTS: dict[str, dict] = {
    "default": {},
    "text": {"text": True},  # with the captions of ROCO_TEXT_FILE
    "greedy": {"search": {"beams": 1, "no_repeat": 0, "neighbours": 0}},
    "20 beams": {"search": {"beams": 20}},
    "20 beams; text": {"search": {"beams": 20}, "text": True},
    "3 beams; no neighbours": {"search": {"beams": 3, "neighbours": 0}},
    "length not matched": {"search": {"match": False}},
    "attention": {"attention": True},
    "attention; text": {"attention": True, "text": True},
    "attention; no concepts": {"attention": True, "build": {"concepts": 0}},
}
FOLDS = setting("FOLDS", 3)
TEXT_FILE = setting("TEXT_FILE", "")
SEEDS = setting("SEEDS", 5)
MEMBERS = setting("MEMBERS", 1)
FINAL = setting("FINAL", "default,attention").split(",")
NAMES = setting(
    "VARIANTS", ",".join(n for n, v in VARIANTS.items() if TEXT_FILE or "text" not in v)
).split(",")
PRECISION = setting("PRECISION", detect().precision)
BASELINES = ["nearest image's caption", "consensus of the nearest", "most frequent caption"]
METRICS = ["CIDEr", "BLEU-1", "ROUGE-L", "words", "distinct", "repeated"]


def prepare() -> tuple[pipeline.Data, Inputs, Features]:
    """Return the data set and its images' features, with grids where a variant attends."""
    cache = setting("CACHE_DIR", "data")
    data = pipeline.prepare_data(
        cache, data_dir=setting("DATA_DIR", ""), phantoms=setting("PHANTOMS", "768,48,300"),
        platform="local",
    )  # fmt: skip
    attention = any("attention" in name for name in (*NAMES, *FINAL))
    features = pipeline.read_or_encode(
        data, cache, weights=setting("ENCODER_WEIGHTS", "imagenet"), precision=PRECISION,
        features_file=setting("FEATURES_FILE", ""), grid_file=setting("GRID_FILE", ""),
        attention=attention,
    )  # fmt: skip
    return data, select_inputs(data.frames, features), features


def folds(frames: pipeline.Frames) -> list[pipeline.Frames]:
    """Deal the cases of the training and validation images into `FOLDS` pairs of splits."""
    known = pd.concat([frames["train"], frames["validation"]], ignore_index=True)
    cases, names = pd.factorize(cases_in(known))
    fold = np.random.default_rng(0).permutation(len(names))[cases] % FOLDS
    splits = [{"train": known[fold != k], "validation": known[fold == k]} for k in range(FOLDS)]
    return [
        {name: frame.reset_index(drop=True) for name, frame in split.items()} for split in splits
    ]


def indexed(data: pipeline.Data, inputs: Inputs, variant: dict) -> pipeline.Words:
    """Make the vocabulary, with the captions without images where the variant takes them."""
    frames = data.frames | inputs.frames  # folds have no images to test on
    with contextlib.redirect_stdout(io.StringIO()):
        texts = pipeline.read_texts(
            TEXT_FILE if variant.get("text") else "", setting("CACHE_DIR", "data"), frames
        )
    return pipeline.index_words(inputs.frames, texts)


def perplexity(captioner: Captioner, inputs: Inputs, words: pipeline.Words) -> float:
    """Return the mean perplexity per word of the members on the validation captions."""
    data = CaptionData(inputs.features["validation"], words.tokens["validation"])
    return math.exp(np.mean([evaluate_loss(m, data) for m in captioner.decoder.members]))


def fitted(
    inputs: Inputs, words: pipeline.Words, variant: dict, seed: int, folder: Path
) -> Captioner:
    """Train a variant and make its captioner as the notebook does, with `MEMBERS` members."""
    sizes = variant.get("build", {})
    decoder = pipeline.make_decoder(inputs, words, members=MEMBERS, seed=seed, **sizes)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        place = pipeline.run_folder(folder, "trained", decoder, inputs, words, seed=seed)
        pipeline.train_decoder(decoder, inputs, words, place, precision=PRECISION, seed=seed)
    return pipeline.make_captioner(decoder, inputs, words, **variant.get("search", {}))


def texts(captioner: Captioner, features: Any) -> list[str]:
    """Return the captions' texts."""
    return [caption.text for caption in captioner.caption_features(features)]


def shuffled(runs: list[list[str]], cases: pd.Series) -> list[list[str]]:
    """Return each run's captions under other cases' images, five times."""
    return [other for run in runs for other in baselines.shuffled_captions(run, cases)]


def choose(data: pipeline.Data, frames: pipeline.Frames, features: Features, folder: Path) -> Any:
    """Return each variant's mean score over the folds, and its standard deviation."""
    rows = []
    for name in NAMES:
        variant, results = VARIANTS[name], []
        for k, split in enumerate(folds(frames)):
            attention = variant.get("attention", False)
            inputs = select_inputs(split, features, attention=attention)
            words = indexed(data, inputs, variant)
            captioner = fitted(inputs, words, variant, k + 1, folder / f"fold{k + 1}")
            references = list(inputs.frames["validation"].caption)
            captions = texts(captioner, inputs.features["validation"])
            systems = {name: captions, "x": shuffled([captions], inputs.cases["validation"])}
            table = score_table(references, systems, resamples=2)
            row = table.iloc[0][METRICS]
            row["times shuffled"] = table.CIDEr.iloc[0] / table.CIDEr.iloc[1]
            row["perplexity"] = perplexity(captioner, inputs, words)
            known = list(inputs.frames["train"].caption)
            row = pd.concat([row, Coherence.fit(known).judge(captions).mean()])
            if data.source.synthetic:
                right = score_phantoms({name: captions}, references)
                row = pd.concat([row, right.iloc[0]])
            results.append(row)
        scores = pd.DataFrame(results).astype(float)
        rows.append(scores.mean().rename(name))
        rows[-1]["CIDEr sd"] = scores["CIDEr"].std()
        print(rows[-1].round(4).to_dict() | {"variant": name}, file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def final(data: pipeline.Data, features: Features, name: str, folder: Path) -> pd.DataFrame:
    """Return a variant's test scores: the mean of its seeds, their ensemble, and the baselines."""
    variant = VARIANTS[name]
    attention = variant.get("attention", False)
    inputs = select_inputs(data.frames, features, attention=attention)
    words, test = indexed(data, inputs, variant), inputs.features["test"]
    seeds = range(1, 1 + SEEDS * MEMBERS, MEMBERS)  # no member is in two ensembles
    captioners = [fitted(inputs, words, variant, seed, folder / "final") for seed in seeds]
    print(
        f"{name}: perplexity", round(np.mean([perplexity(c, inputs, words) for c in captioners]), 1)
    )
    members = [member for captioner in captioners for member in captioner.decoder.members]
    ensemble = pipeline.make_captioner(combine(members), inputs, words, **variant.get("search", {}))
    runs = [texts(captioner, test) for captioner in captioners]
    compared = pipeline.caption_by_baselines(captioners[0], inputs, runs[0])
    written = inputs.frames["test"][["id", "caption"]].assign(**{name: runs[0]})
    written.to_csv(folder / f"captions {name}.csv", index=False)
    tables = []
    label = f"{name}, {SEEDS} seeds" + (f" of {MEMBERS} each" if MEMBERS > 1 else "")
    references = list(inputs.frames["test"].caption)
    for system, some in {label: runs, f"{name}, ensemble": [texts(ensemble, test)]}.items():
        systems = {system: some, f"{system}, images shuffled": shuffled(some, inputs.cases["test"])}
        for baseline in BASELINES:
            systems[baseline] = compared[baseline]
        known = list(inputs.frames["train"].caption)
        judge = Coherence.fit(known).judge
        said = pd.concat([judge(run).mean() for run in some], axis=1).mean(axis=1)
        own = judge(references).mean()
        print(f"{system}:", said.round(4).to_dict(), "references:", own.round(4).to_dict())
        table = score_table(references, systems, train_captions=known, groups=inputs.cases["test"])
        table.insert(0, "against", system)
        tables.append(table)
        if len(some) > 1:
            each = [score_table(references, {"x": run}, resamples=2).CIDEr.iloc[0] for run in some]
            print(f"{system}: CIDEr of each {np.round(each, 4)}, sd {np.std(each, ddof=1):.4f}")
        if data.source.synthetic:
            right = score_phantoms({system: some}, references)
            print(f"{system}: right", right.iloc[0].round(3).to_dict())
    return pd.concat(tables)


def main() -> None:
    """Run both parts and write their tables."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for name in filter(None, (*NAMES, *FINAL)):
        if name not in VARIANTS:
            sys.exit(f"There is no variant {name!r}; there are {', '.join(VARIANTS)}.")
        if VARIANTS[name].get("text") and not TEXT_FILE:
            sys.exit(f"{name!r} needs captions without images: set ROCO_TEXT_FILE.")
    data, inputs, features = prepare()
    folder = Path(setting("CHECKPOINT_DIR", f"checkpoints/experiments/{data.source.name}"))
    folder.mkdir(parents=True, exist_ok=True)
    pd.set_option("display.width", 250, "display.max_columns", 50)
    if FOLDS:
        table = choose(data, inputs.frames, features, folder)
        table.to_csv(folder / "variants.csv")
        print(table.round(4).to_string())
    for name in filter(None, FINAL):
        table = final(data, features, name, folder)
        table.to_csv(folder / f"final {name}.csv")
        columns = ["CIDEr", "CIDEr_low", "CIDEr_high", "p_vs_first", *METRICS[1:]]
        print(table[columns].round(4).to_string())


if __name__ == "__main__":
    main()
