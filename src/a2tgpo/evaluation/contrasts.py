"""Two methods over the same seeds: the mean of their paired differences, its interval, and the work of chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, permutation_test

COVERAGE = 0.95
RESAMPLES = 10_000
FEWEST = 3
"""Seeds below which an interval says nothing."""


@dataclass(frozen=True)
class Contrast:
    """What `first` has more than `second`, a mean over `seeds`."""

    first: str
    second: str
    seeds: tuple[int, ...]
    difference: float
    low: float
    """The interval is bias-corrected and accelerated (BCa), 95 %."""
    high: float
    p: float
    """Two-sided sign-flip test: the share of all signs of the differences with a mean as far from 0. With n seeds it
    is at least 2^(1−n)."""


def contrast(
    first: tuple[str, Mapping[int, float]], second: tuple[str, Mapping[int, float]], seed: int = 0
) -> Contrast:
    """Compare two methods, each a name and a figure a seed, on the seeds that both have.

    Above 13 seeds the signs are drawn, with `seed`. Raises ValueError where fewer than `FEWEST` seeds are shared.
    """
    seeds = tuple(sorted(first[1].keys() & second[1].keys()))
    if len(seeds) < FEWEST:
        raise ValueError(f"{first[0]} and {second[0]} share {len(seeds)} seeds; expected at least {FEWEST}")
    differences = np.array([first[1][s] - second[1][s] for s in seeds])
    low, high = interval(differences, seed)
    p = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(seed)
    ).pvalue
    return Contrast(first[0], second[0], seeds, float(differences.mean()), low, high, float(p))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval (BCa) of the mean of `values`, one a seed, resampled with `seed`.

    Raises ValueError for fewer than `FEWEST` values.
    """
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} values; expected at least {FEWEST} for an interval")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    found = bootstrap(
        (np.asarray(values),), np.mean, confidence_level=COVERAGE, n_resamples=RESAMPLES, method="BCa", rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: p-values that may be read side by side, in the order given.

    The i-th smallest of m (from 0) becomes the largest of (m − j)·p₍ⱼ₎ over j ≤ i, at most 1.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for i, place in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[place]))
        adjusted[place] = largest
    return adjusted
