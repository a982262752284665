"""How sure a score is: bootstrap over images or cases, and a randomisation test of two systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.scores.metrics import PROTOCOLS, image_counts, meteor_counts, scores, tokenized


def bootstrap_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each of n units is drawn in each bootstrap resample (Efron, 1979).

    Args:
        n: number of units, which are drawn n times with replacement.
        resamples: number of resamples.
        seed: of the draw; the same seed gives the same resamples, so systems stay paired.

    Returns:
        float64 (resamples, n); every row sums to n.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of resampled scores.

    Args:
        values: (resamples, k).
        level: share of the resamples within the interval.

    Returns:
        Its lower and upper ends, (k,) each.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def randomisation_p(differences: np.ndarray, resamples: int, seed: int) -> float:
    """Return the two-sided p-value of a paired approximate randomisation test.

    Where two systems are alike, whose score is whose is a coin's toss in each unit. The p-value is
    the share of tosses that part the systems at least as far as what was seen (Noreen, 1989;
    preferred to the bootstrap for tests by Riezler and Maxwell, 2005, W05-0908).

    Args:
        differences: (n,) score of one system less the other's, summed within each image or case.
        resamples: number of tosses.
        seed: of the tosses.

    Returns:
        Between 1 / (resamples + 1) and 1.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, len(differences)))
    seen = abs(differences.sum())
    at_least = np.abs(signs @ differences) >= seen - 1e-9
    return float((1 + at_least.sum()) / (1 + resamples))


Captions = Sequence[str]


def score_table(
    references: Captions,
    systems: Mapping[str, Captions | Sequence[Captions]],
    *,
    train_captions: Captions | None = None,
    groups: Sequence | None = None,
    protocol: str = "coco",
    meteor: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score systems against the references, in one table.

    Args:
        references: n captions, one an image.
        systems: name to n captions, or to several runs of n captions each, whose scores are
            averaged in one row ("shuffled images"). The first system is the main one.
        train_captions: the captions trained on, to find those copied word for word.
        groups: n labels, equal for images of one case; whole cases are then resampled.
        protocol: "coco" or "imageclef", see `protocols.PROTOCOLS`.
        meteor: False leaves METEOR out, the slowest of all.
        resamples: number of bootstrap resamples, and of randomisations for the test.
        seed: of both.

    Returns:
        One row a system (index "system"). Columns: BLEU-1 … BLEU-4, METEOR, ROUGE-1, ROUGE-L,
        CIDEr (0 to 10), "words" (mean length), "repeated" (share of a caption's bigrams that
        stood in it before or are one word twice, mean) and "copied" (share of captions), each
        followed by its 95 % bootstrap interval, "…_low" and "…_high"; "distinct", the share of
        distinct captions (without interval, as a resample repeats captions by itself);
        "p_vs_first", of CIDEr against the first system by approximate randomisation, each test by
        itself. An empty hypothesis counts and scores 0. `attrs["caption"]` says in words how the
        table was made, and why METEOR is empty if it is.

    Raises:
        UserError: nothing to score, lengths that do not match, or an unknown protocol.
    """
    n = len(references)
    units = _units(groups, n)
    runs = {name: _runs(name, captions, n) for name, captions in systems.items()}
    if not runs:
        raise UserError("There is no system to score: give at least one in `systems`.")
    wanted = tokenized(*_runs("references", references, n), protocol)
    written = {name: [tokenized(run, protocol) for run in some] for name, some in runs.items()}
    known = None if train_captions is None else set(tokenized(train_captions, protocol))
    counts = {name: [image_counts(wanted, run, known) for run in written[name]] for name in runs}
    no_meteor = _add_meteor(counts, wanted, written) if meteor else "it was left out"

    weights = bootstrap_weights(units.max() + 1, resamples, seed)
    sums = {name: [run.groupby(units).sum(min_count=1) for run in counts[name]] for name in runs}
    cider = {name: np.mean([run["CIDEr"] for run in some], axis=0) for name, some in sums.items()}
    table = pd.DataFrame({name: _with_intervals(some, weights) for name, some in sums.items()}).T
    table["distinct"] = [np.mean([len(set(run)) / n for run in written[name]]) for name in runs]
    main, *others = cider.values()
    p = [randomisation_p(main - other, resamples, seed) for other in others]
    table["p_vs_first"] = [float("nan"), *p]
    table.attrs["caption"] = _caption(n, units, protocol, resamples, no_meteor)
    return table.rename_axis("system")


def _runs(name: str, captions: Captions | Sequence[Captions], n: int) -> list[list[str]]:
    """Return a system's captions as a list of runs, each checked to be n captions."""
    captions = list(captions)
    one_run = not captions or any(isinstance(text, str | float | None) for text in captions)
    runs = [captions] if one_run else [list(run) for run in captions]
    for run in runs:
        texts = sum(isinstance(caption, str) for caption in run)
        if not texts == len(run) == n:
            raise UserError(
                f"{name!r} has {texts} captions for {n} references. Give one text for each image "
                "(an empty one where there is none), in the references' order."
            )
    return runs


def _units(groups: Sequence | None, n: int) -> np.ndarray:
    """Return for each image the number of the unit that is resampled: itself, or its case."""
    if n == 0:
        raise UserError("There is nothing to score: `references` is empty.")
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise UserError(f"There are {len(groups)} groups for {n} references: give one an image.")
    return pd.factorize(np.asarray(groups), use_na_sentinel=False)[0]


def _add_meteor(
    counts: dict[str, list[pd.DataFrame]],
    references: list[str],
    written: dict[str, list[list[str]]],
) -> str | None:
    """Put METEOR's counts beside the others, in place; return why not where they cannot be had."""
    # One call for all the runs, because Java's METEOR takes seconds to load.
    runs = [run for some in written.values() for run in some]
    found = meteor_counts(references * len(runs), [text for run in runs for text in run])
    if isinstance(found, str):
        return found
    n = len(references)
    parts = (found[i : i + n].reset_index(drop=True) for i in range(0, len(found), n))
    for name, some in counts.items():
        counts[name] = [run.join(next(parts)) for run in some]
    return None


def _with_intervals(sums: list[pd.DataFrame], weights: np.ndarray) -> dict[str, float]:
    """Return a system's scores and their intervals, each the mean over its runs.

    Args:
        sums: a table for each run: the counts, summed within each of the units.
        weights: (resamples, units).
    """
    everything_once = np.ones((1, weights.shape[1]))
    weights = np.vstack([everything_once, weights])
    sampled = [scores(pd.DataFrame(weights @ run.to_numpy(), columns=run.columns)) for run in sums]
    values = pd.DataFrame(np.mean(sampled, axis=0), columns=sampled[0].columns)
    low, high = interval(values.to_numpy()[1:])
    row = {}
    for name, value, *ends in zip(values.columns, values.iloc[0], low, high, strict=True):
        row |= {name: float(value), f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
    return row


def _caption(
    n: int, units: np.ndarray, protocol: str, resamples: int, no_meteor: str | None
) -> str:
    """Return in words how the table was made."""
    alone = units.max() + 1 == n  # each image is a case of its own
    cases = "" if alone else f" of {units.max() + 1:,} cases"
    drawn = "images" if alone else "whole cases"
    return (
        f"{n:,} image{'s' if n > 1 else ''}{cases}. "
        f'Words by the "{protocol}" protocol: {PROTOCOLS[protocol].description}. '
        f"In brackets: 95 % bootstrap interval, {resamples:,} resamples of {drawn}. "
        "p_vs_first: CIDEr against the first row, approximate randomisation."
    ) + (f" METEOR is empty: {no_meteor}." if no_meteor else "")


def caption_scores(
    references: Captions, hypotheses: Captions, protocol: str = "coco"
) -> np.ndarray:
    """Return each caption's own CIDEr, by which a gallery can be sorted.

    Args:
        references: n captions.
        hypotheses: n captions, in the same order.
        protocol: see `protocols.PROTOCOLS`.

    Returns:
        float64 (n,), 0 to 10, idf from all the references.

    Raises:
        UserError: lengths that do not match, or an unknown protocol.
    """
    (run,) = _runs("hypotheses", hypotheses, len(references))
    counts = image_counts(tokenized(references, protocol), tokenized(run, protocol))
    return counts["CIDEr"].to_numpy(float)


def breakdown(
    references: Captions, hypotheses: Captions, groups: Sequence, *, protocol: str = "coco"
) -> pd.DataFrame:
    """Score one system apart for each kind of image.

    Args:
        references: n captions.
        hypotheses: n captions.
        groups: n labels: modality (`clinical.modality_of`), region, `length_quartiles`, …; "" is
            shown as "not stated".
        protocol: see `protocols.PROTOCOLS`.

    Returns:
        One row a label (index "group"): "images", CIDEr (its idf from all the references),
        ROUGE-L, BLEU-1. Most frequent first; a pandas Categorical keeps its own order.

    Raises:
        UserError: lengths that do not match, or an unknown protocol.
    """
    _units(groups, len(references))
    (run,) = _runs("hypotheses", hypotheses, len(references))
    counts = image_counts(tokenized(references, protocol), tokenized(run, protocol))
    ordered = isinstance(groups, pd.Categorical)
    labels = groups if ordered else [label if label != "" else "not stated" for label in groups]
    sums = counts.groupby(pd.Series(labels, name="group"), observed=True).sum()
    table = scores(sums)[["CIDEr", "ROUGE-L", "BLEU-1"]]
    table.insert(0, "images", sums["images"].astype(int))
    return table if ordered else table.sort_values("images", ascending=False, kind="stable")


def length_quartiles(captions: Captions) -> pd.Categorical:
    """Return for each caption which quarter by length it is in, as labels like "10–16 words"."""
    words = np.array([len(caption.split()) for caption in captions])
    quarter = np.searchsorted(np.quantile(words, [0.25, 0.5, 0.75]), words)
    labels = {
        q: f"{words[quarter == q].min()}–{words[quarter == q].max()} words"
        for q in np.unique(quarter)
    }
    return pd.Categorical([labels[q] for q in quarter], list(labels.values()), ordered=True)
