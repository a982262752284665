"""Score tables with bootstrap intervals and randomisation tests, and scores per kind of image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.scores import metrics


def bootstrap_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each of n units is drawn in a bootstrap resample, float64 (resamples, n)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def randomisation_p(differences: np.ndarray, resamples: int, seed: int) -> float:
    """Return the two-sided p-value of a paired approximate randomisation test (Noreen, 1989).

    `differences` (n,) are one system's score minus the other's, for each image or case.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, len(differences)))
    as_large = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((1 + as_large.sum()) / (1 + resamples))


def score_table(
    references: metrics.References,
    systems: Mapping[str, Sequence[str] | Sequence[Sequence[str]]],
    *,
    train_captions: Sequence[str] | None = None,
    groups: Sequence | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score systems against the references, in one table.

    Args:
        references: n captions, one per image; or n lists of an image's captions.
        systems: name to n captions, or to several runs of n captions, whose scores are averaged.
        train_captions: the training captions, to find those copied word for word.
        groups: n labels, equal for images of one case; whole cases are then resampled.
        resamples, seed: number and random seed of bootstrap resamples, and of randomisations.

    Returns:
        One row per system. Columns: BLEU-1 … BLEU-4, ROUGE-1, ROUGE-L, CIDEr (0 to 10), means of
        `metrics.wording`, each followed by its 95 % bootstrap interval, "…_low" and "…_high";
        "distinct", the share of distinct captions; "p_vs_first", of CIDEr against the first system,
        not corrected for multiple tests. `attrs["caption"]` says how the table was made.
    """
    n = len(references)
    units = pd.factorize(metrics.labels(groups, n), use_na_sentinel=False)[0]
    if not systems:
        raise UserError("There is no system to score: give at least one in `systems`.")
    references = _references(references)
    if len(set(map(tuple, references))) == 1:
        print("NOTE: All images have the same references, or there is only one image. Words that "
              "occur with every image weigh nothing in CIDEr, so it is 0 for every caption, "
              "perfect ones included.")  # fmt: skip
    hypotheses = {name: _runs(name, systems[name], n) for name in systems}
    training = None if train_captions is None else set(metrics.tokenized(train_captions))
    weights = bootstrap_weights(units.max() + 1, resamples, seed)
    rows, cider = {}, {}
    for name, runs in hypotheses.items():
        counts = [metrics.image_counts(references, run, training) for run in runs]
        sums = [run.groupby(units).sum(min_count=1) for run in counts]
        cider[name] = np.mean([run["CIDEr"] for run in sums], axis=0)
        distinct = np.mean([len(set(run)) / n for run in runs])
        rows[name] = _with_intervals(sums, weights) | {"distinct": distinct}
    table = pd.DataFrame(rows).T.rename_axis("system")
    main, *others = cider.values()
    p_values = [randomisation_p(main - other, resamples, seed) for other in others]
    table["p_vs_first"] = [np.nan, *p_values]
    table.attrs["caption"] = _caption(units, resamples)
    return table


def _references(references: metrics.References) -> list[list[str]]:
    """Return each image's references, tokenized."""
    lists = metrics.as_lists(references)
    if not lists:
        raise UserError("There is nothing to score: `references` is empty.")
    _check("references", lists, len(lists))
    return [metrics.tokenized(texts) for texts in lists]


def _runs(name: str, captions: Sequence[str] | Sequence[Sequence[str]], n: int) -> list[list[str]]:
    """Return a system's captions as a list of tokenized runs."""
    captions = list(captions)
    one_run = not captions or any(isinstance(text, str | float | None) for text in captions)
    runs = [captions] if one_run else [list(run) for run in captions]
    for run in runs:
        _check(name, [[text] for text in run], n)
    return [metrics.tokenized(run) for run in runs]


def _check(name: str, lists: list[list], n: int) -> None:
    texts = sum(bool(parts) and all(isinstance(t, str) for t in parts) for parts in lists)
    if not texts == len(lists) == n:
        raise UserError(f"{name!r} has {texts} captions for {n} references: one text per image.")


def _with_intervals(sums: list[pd.DataFrame], weights: np.ndarray) -> dict[str, float]:
    """Return a system's scores and intervals, means over its runs, from counts summed per unit."""
    weights = np.vstack([np.ones(weights.shape[1]), weights])  # first, the images as they are
    sampled = [metrics.scores(pd.DataFrame(weights @ run, columns=run.columns)) for run in sums]
    values = np.mean(sampled, axis=0)
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    row = {}
    for i, name in enumerate(sampled[0].columns):
        row |= {name: values[0, i], f"{name}_low": low[i], f"{name}_high": high[i]}
    return row


def _caption(units: np.ndarray, resamples: int) -> str:
    n, cases = len(units), units.max() + 1
    return (
        f"{n:,} {'image' if n == 1 else 'images'}{f' of {cases:,} cases' if cases < n else ''}. "
        "Words are lower-case, without punctuation, as by coco-caption's PTB tokenizer. In "
        f"brackets: 95 % bootstrap interval, {resamples:,} resamples of "
        f"{'whole cases' if cases < n else 'images'}. p_vs_first: CIDEr against the "
        "first row, approximate randomisation."
    )


def gain_in_words(table: pd.DataFrame, other: str) -> str:
    """Say how many times the CIDEr of another row the first row's is, and if that may be chance."""
    if other not in table.index:
        return f'There is no row "{other}": one test image cannot be shuffled.'
    score, baseline = table.CIDEr.iloc[0], table.CIDEr[other]
    if not baseline > 0:
        return f"CIDEr is {score:.3f}, and 0 with the images shuffled."
    said = f"CIDEr is {score / baseline:.1f} times what it is with the images shuffled."
    if table.p_vs_first[other] > 0.05:
        said += "\nWARNING: that may be chance: these captions hardly depend on their images, or "
        said += "there are too few test cases to tell."
    return said


def caption_scores(references: metrics.References, hypotheses: Sequence[str]) -> np.ndarray:
    """Return each caption's own CIDEr, 0 to 10, idf from all the references, float64 (n,)."""
    return _counts(references, hypotheses)["CIDEr"].to_numpy(float)


def _counts(references: metrics.References, hypotheses: Sequence[str]) -> pd.DataFrame:
    [run] = _runs("hypotheses", hypotheses, len(references))
    return metrics.image_counts(_references(references), run)


def breakdown(
    references: metrics.References, hypotheses: Sequence[str], groups: Sequence
) -> pd.DataFrame:
    """Score one system separately for each kind of image, one row per label.

    `groups` are n labels; missing ones and "" are shown as "not stated". Columns: "images", CIDEr
    (idf from all the references), ROUGE-L, BLEU-1. The most frequent label is first, unless they
    are a Categorical.
    """
    metrics.labels(groups, len(references))  # checks their number
    labels = pd.Series(groups, name="group").reset_index(drop=True)
    ordered = isinstance(groups, pd.Categorical)
    if not ordered:
        labels = labels.fillna("").replace("", "not stated")
    counts = _counts(references, hypotheses)
    sums = counts.groupby(labels, observed=True).sum()
    table = metrics.scores(sums)[["CIDEr", "ROUGE-L", "BLEU-1"]]
    table.insert(0, "images", sums["images"].astype(int))
    return table if ordered else table.sort_values("images", ascending=False, kind="stable")


def length_quartiles(captions: metrics.References) -> pd.Categorical:
    """Return each caption's quartile by length, or its image's by mean length: "10–16 words"."""
    lengths = [np.mean([len(c.split()) for c in texts]) for texts in metrics.as_lists(captions)]
    words = pd.Series(lengths).round().astype(int)
    quartile = np.searchsorted(words.quantile([0.25, 0.5, 0.75]), words)
    bounds = words.groupby(quartile).agg(["min", "max"])
    labels = [f"{low}–{high} words" for low, high in bounds.to_numpy()]
    return pd.Categorical.from_codes(bounds.index.get_indexer(quartile), labels, ordered=True)
