"""`make experiments`: variants of the decoder side by side, then the best on the test split.

Each variant is trained once a fold, from another seed each time, on the training and validation
images less that fold's, and scored on the fold: that is what a choice may rest on. Then those
named in `ROCO_FINAL` are trained on the training split from `ROCO_SEEDS` seeds and scored on the
test split, apart and as one ensemble, beside the baselines. With `ROCO_MEMBERS` each seed
stands for an ensemble of so many. All trainings are kept, so that a second run only prints.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from roco_caption.core.machine import detect, set_seeds, setting
from roco_caption.data.roco import cases_of, locate_dataset, read_dataset
from roco_caption.decoder.model import Ensemble, build_decoder, fit_scalers
from roco_caption.features.extract import extract_features
from roco_caption.features.given import read_features_file, with_grid_file
from roco_caption.features.table import with_features
from roco_caption.scores import baselines
from roco_caption.scores.phantoms import shares_right
from roco_caption.scores.table import score_table
from roco_caption.search.captioner import Captioner, Search
from roco_caption.search.rerank import Consensus, match_length
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.training.loop import CaptionData, train

# What differs from the notebook's settings: in the decoder, in training, in the search.
VARIANTS: dict[str, dict] = {
    "default": {},
    "no mentions": {"build": {"mentions": 0.0}},
    "mentions 3": {"build": {"mentions": 3.0}},
    "greedy": {"search": {"beams": 1, "no_repeat": 0, "neighbours": 0}},
    "3 beams; no neighbours": {"search": {"beams": 3, "neighbours": 0}},
    "length not matched": {"match": False},
    "dropout 0.3": {"build": {"dropout": 0.3}},
    "512 units": {"build": {"units": 512}},
    "weight decay 0.05": {"train": {"weight_decay": 0.05}},
    "batches of 64": {"train": {"batch_size": 64}},
    "attention": {"build": {"attention": True}},
    "attention; mentions 1": {"build": {"attention": True, "mentions": 1.0}},
    "attention; no concepts": {"build": {"attention": True, "concepts": 0}},
    "attention; 3 beams; no neighbours": {
        "build": {"attention": True},
        "search": {"beams": 3, "neighbours": 0},
    },
    "attention; contrast 0.1": {"build": {"attention": True}, "search": {"contrast": 0.1}},
    "attention; contrast 0.2": {"build": {"attention": True}, "search": {"contrast": 0.2}},
    "attention; dropout 0.3": {"build": {"attention": True, "dropout": 0.3}},
    "attention; vector dropped in half": {"build": {"attention": True, "pooled_dropout": 0.5}},
    "attention; vector never dropped": {"build": {"attention": True, "pooled_dropout": 0.0}},
}
FOLDS = setting("FOLDS", 3)
SEEDS = setting("SEEDS", 5)
MEMBERS = setting("MEMBERS", 1)
FINAL = setting("FINAL", "default,attention").split(",")
NAMES = setting("VARIANTS", ",".join(VARIANTS)).split(",")
MAX_WORDS = 50
PRECISION = setting("PRECISION", detect().precision)
METRICS = ["CIDEr", "BLEU-1", "ROUGE-L", "words", "distinct", "repeated"]


class Data:
    """One data set's captions and features, whole or a part of it."""

    def __init__(self) -> None:
        cache = setting("CACHE_DIR", "data")
        counts = tuple(map(int, setting("PHANTOMS", "768,48,300").split(",")))
        source = locate_dataset(
            cache, data_dir=setting("DATA_DIR", ""), source="auto", phantom_counts=counts, seed=1
        )
        frames, _ = read_dataset(source.root)
        self.name, self.synthetic = source.name, source.synthetic
        grid_file = setting("GRID_FILE", "")
        if setting("FEATURES_FILE", ""):
            features = read_features_file(setting("FEATURES_FILE", ""))
            features = with_grid_file(features, grid_file) if grid_file else features
        else:
            listed = pd.concat(frames.values())
            features = extract_features(
                dict(zip(listed.id, listed.image, strict=True)),
                Path(cache) / "features" / self.name,
                weights=setting("ENCODER_WEIGHTS", "imagenet"), seed=1, allow_random=self.synthetic,
                precision=PRECISION,
                with_grid=any("attention" in name for name in NAMES),
            )  # fmt: skip
        self.frames, _, _ = with_features(frames, features)
        self.features = features

    def inputs(self, ids: pd.Series, attention: bool) -> object:
        """Return the images' features, with attention a pair of them and their grids."""
        vectors = self.features.select(list(ids))
        return (vectors, self.features.select_grid(list(ids))) if attention else vectors

    def folds(self) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
        """Deal the training and validation images' cases into `FOLDS` pairs of learn and score."""
        known = pd.concat([self.frames["train"], self.frames["validation"]], ignore_index=True)
        cases, names = pd.factorize(cases_of(known.id))
        fold = np.random.default_rng(0).permutation(len(names))[cases] % FOLDS
        return [(known[fold != k], known[fold == k]) for k in range(FOLDS)]


def fitted(
    data: Data, variant: dict, seed: int, learn: pd.DataFrame, tune: pd.DataFrame, folder: Path
) -> Captioner:
    """Train a variant and find its length, both as the notebook does."""
    build, options = variant.get("build", {}), variant.get("train", {})
    attention = build.get("attention", False)
    tokenizer = CaptionTokenizer.fit(learn.caption, min_frequency=3, max_words=MAX_WORDS)
    known, inner = data.inputs(learn.id, attention), data.inputs(tune.id, attention)
    vectors = known[0] if attention else known
    sizes = {"feature_size": vectors.shape[1], "max_len": MAX_WORDS + 1}
    sizes |= {"mentions": 0.0 if attention else 1.0} | build
    if attention:
        sizes["grid_size"] = known[1].shape[1:]
    set_seeds(seed)
    decoder = build_decoder(vocab_size=tokenizer.vocab_size, **sizes)
    fit_scalers([decoder], known, tokenizer.encode(learn.caption), cases_of(learn.id))
    digest = hashlib.sha256(json.dumps([build, options, seed]).encode()).hexdigest()[:12]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train(
            decoder, CaptionData(known, tokenizer.encode(learn.caption)),
            CaptionData(inner, tokenizer.encode(tune.caption)), folder / digest, seed=seed,
            precision=PRECISION, **options,
        )  # fmt: skip
    search = Search(**{"beams": 20, "neighbours": 10} | variant.get("search", {}))
    captioner = Captioner(decoder, tokenizer, search)
    if search.neighbours:
        captioner.consensus = Consensus.fit(decoder, known, tokenizer.encode(learn.caption))
    if variant.get("match", True) and captioner.search.beams > 1:
        captioner.search = match_length(captioner, inner, tokenizer.encode(tune.caption))
    return captioner


def texts(captioner: Captioner, features: object) -> list[str]:
    """Return the captions' texts."""
    return [caption.text for caption in captioner.caption_features(features)]


def mixed(written: list[list[str]], cases: pd.Series) -> list[list[str]]:
    """Return each run's captions under other cases' images, five times."""
    orders = [baselines.shuffled(len(cases), seed, cases) for seed in range(5)]
    return [[run[i] for i in order] for run in written for order in orders]


def choose(data: Data, folder: Path) -> pd.DataFrame:
    """Return each variant's mean score over the folds, and its standard deviation."""
    rows = []
    for name in NAMES:
        variant, results = VARIANTS[name], []
        for k, (learn, held_out) in enumerate(data.folds()):
            captioner = fitted(data, variant, k + 1, learn, held_out, folder / f"fold{k + 1}")
            attention = variant.get("build", {}).get("attention", False)
            found = texts(captioner, data.inputs(held_out.id, attention))
            systems = {name: found, "shuffled": mixed([found], cases_of(held_out.id))}
            table = score_table(held_out.caption, systems, resamples=2, meteor=False)
            results.append(table.iloc[0][[m for m in METRICS if m in table]])
            results[-1]["times shuffled"] = table.CIDEr.iloc[0] / table.CIDEr.iloc[1]
            if data.synthetic:
                results[-1] = pd.concat(
                    [results[-1], pd.Series(shares_right(held_out.caption, found))]
                )
        results = pd.DataFrame(results).astype(float)
        rows.append(results.mean().rename(name))
        rows[-1]["CIDEr sd"] = results["CIDEr"].std()
        print(rows[-1].round(4).to_dict() | {"variant": name}, file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def final(data: Data, name: str, folder: Path) -> pd.DataFrame:
    """Return a variant's test scores: the mean of its seeds, their ensemble, and the baselines."""
    variant = VARIANTS[name]
    attention = variant.get("build", {}).get("attention", False)
    learn, tune, test = (data.frames[split] for split in ("train", "validation", "test"))
    inputs = data.inputs(test.id, attention)
    members = [
        fitted(data, variant, seed, learn, tune, folder / "final")
        for seed in range(1, SEEDS * MEMBERS + 1)
    ]
    tune_inputs = data.inputs(tune.id, attention)

    def ensemble(members: list[Captioner]) -> Captioner:
        one = members[0]
        decoder = Ensemble([member.captioning for member in members])
        captioner = Captioner(decoder, one.tokenizer, one.search)
        if one.search.neighbours:
            known = data.inputs(learn.id, attention), one.tokenizer.encode(learn.caption)
            captioner.consensus = Consensus.fit(decoder, *known)
        captioner.search = match_length(captioner, tune_inputs, one.tokenizer.encode(tune.caption))
        return captioner

    captioners = members
    if MEMBERS > 1:
        captioners = [ensemble(members[k * MEMBERS : (k + 1) * MEMBERS]) for k in range(SEEDS)]
    both = ensemble(members)
    runs, together = [texts(captioner, inputs) for captioner in captioners], texts(both, inputs)
    cases = cases_of(test.id)
    vectors = data.features.select(list(learn.id)), list(learn.caption)
    near = data.features.select(list(test.id))
    nearest = baselines.nearest_captions(*vectors, near)
    consensus = baselines.consensus_captions(*vectors, near)
    frequent = baselines.most_frequent_caption(vectors[1], len(test))
    tables = []
    for system, written in {
        f"{name}, {SEEDS} seeds" + f" of {MEMBERS} each" * (MEMBERS > 1): runs,
        f"{name}, ensemble": [together],
    }.items():
        systems = {system: written, f"{system}, images shuffled": mixed(written, cases)}
        systems |= {"nearest image's caption": nearest, "consensus of the nearest": consensus}
        systems["most frequent caption"] = frequent
        tables.append(
            score_table(
                test.caption, systems, train_captions=vectors[1], groups=cases, meteor=False
            )
        )
        tables[-1].insert(0, "against", system)
        if len(written) > 1:
            each = [
                score_table(test.caption, {"x": run}, resamples=2, meteor=False).CIDEr.iloc[0]
                for run in written
            ]
            print(f"{system}: CIDEr of each {np.round(each, 4)}, sd {np.std(each, ddof=1):.4f}")
        if data.synthetic:
            shares = pd.DataFrame([shares_right(test.caption, run) for run in written])
            print(f"{system}: right", shares.mean().round(3).to_dict())
    return pd.concat(tables)


def main() -> None:
    """Run both parts and write their tables."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    data = Data()
    folder = Path(setting("CHECKPOINT_DIR", f"checkpoints/experiments/{data.name}"))
    pd.set_option("display.width", 250, "display.max_columns", 50)
    if FOLDS:
        table = choose(data, folder)
        table.to_csv(folder / "variants.csv")
        print(table.round(4).to_string())
    for name in filter(None, FINAL):
        table = final(data, name, folder)
        table.to_csv(folder / f"final {name}.csv")
        columns = ["CIDEr", "CIDEr_low", "CIDEr_high", "p_vs_first", *METRICS[1:]]
        print(table[columns].round(4).to_string())


if __name__ == "__main__":
    main()
