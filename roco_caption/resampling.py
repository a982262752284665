"""How sure a score is: bootstrap over images or cases, and a randomisation test of two systems."""

from __future__ import annotations

import numpy as np


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
