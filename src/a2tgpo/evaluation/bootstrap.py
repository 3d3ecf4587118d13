"""Means over question sets with bootstrap intervals: each set, and the averages over groups of sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from a2tgpo.rollouts.trajectory import Trajectory

RESAMPLES = 2000
COVERAGE = 0.95
OVERALL = "overall"
EPISODE_METRICS = ("success", "em", "f1", "format", "calls", "tool_failures")
"""The metrics of an episode that are tabled where they are there; `success` always is."""
SHARES = ("success", "em", "f1", "format")
"""Those of them that lie between 0 and 1."""
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % bootstrap interval, in which it lies."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetScores:
    """What one set gave: `metrics` names the columns of `values`, one row a question, a mean over its samples.

    `replicates` are the means of `RESAMPLES` resamplings of the questions, or of what `at_the_border` draws.
    """

    metrics: tuple[str, ...]
    values: Float[ndarray, "N M"]
    replicates: Float[ndarray, "R M"]

    def estimates(self) -> dict[str, Estimate]:
        """Mean and interval of each metric."""
        return _estimates(self.metrics, self.values.mean(axis=0), self.replicates)


def score(name: str, trajectories: Sequence[Trajectory], samples: int, seed: int) -> SetScores:
    """The scores of set `name` from `samples` trajectories a question, in order.

    Of `EPISODE_METRICS` those that the environment has, the tokens the policy sampled and all it saw. The resampling
    depends on (seed, name) alone, not on the other sets.
    """
    known = [metric for metric in EPISODE_METRICS if metric in trajectories[0].metrics]
    rows = [
        [t.metrics[m] for m in known] + [sum(len(turn.action_ids) for turn in t.turns), len(t.token_ids)]
        for t in trajectories
    ]
    values = np.asarray(rows, dtype=np.float64).reshape(-1, samples, len(rows[0])).mean(axis=1)
    rng = np.random.default_rng([seed, crc32(name.encode())])
    replicates = bootstrap(values, rng)
    for i, metric in enumerate(known):
        if metric in SHARES and (drawn := at_the_border(values[:, i], rng)) is not None:
            replicates[:, i] = drawn
    return SetScores((*known, "action_tokens", "tokens"), values, replicates)


def at_the_border(shares: Float[ndarray, " N"], rng: np.random.Generator) -> Float[ndarray, " R"] | None:
    """Replicates of a mean that is 0 or 1 because each of its `shares` is; None where they are not all alike so.

    To resample them shows no spread, which would say that the true mean is known. The draws are of the distribution
    whose quantile is Clopper and Pearson's bound: none of n are up to 1 − 0.025^(1/n) of them, at 95 %.
    """
    if shares.any() and not (shares == 1).all():
        return None
    levels = (rng.permutation(RESAMPLES) + 0.5) / RESAMPLES  # each once, so that the bound is no matter of luck
    drawn = 1 - (1 - levels) ** (1 / len(shares))
    return 1 - drawn if shares.any() else drawn


def bootstrap(
    values: Float[ndarray, "N M"], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Float[ndarray, "R M"]:
    """Means of `resamples` draws of N rows with replacement; the columns of a row stay together."""
    n = len(values)
    means = np.empty((resamples, values.shape[1]))
    at_once = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        means[start : start + count] = times @ values / n
    return means


def averages(
    scores: Mapping[str, SetScores], groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """For each group of which a set was scored, and for all sets: `weighted` by questions, and `macro` over sets.

    Sets are resampled each on its own, so the replicates of an average are the averages of theirs.
    """
    result = {}
    for group, names in {**groups, OVERALL: list(scores)}.items():
        members = [scores[name] for name in names if name in scores]
        if members:
            sizes = np.array([len(member.values) for member in members], dtype=np.float64)
            result[group] = {
                "weighted": _average(members, sizes / sizes.sum()),
                "macro": _average(members, np.full(len(members), 1 / len(members))),
            }
    return result


def _average(members: Sequence[SetScores], weights: Float[ndarray, " K"]) -> dict[str, Estimate]:
    means = np.tensordot(weights, np.stack([member.values.mean(axis=0) for member in members]), 1)
    replicates = np.tensordot(weights, np.stack([member.replicates for member in members]), 1)
    return _estimates(members[0].metrics, means, replicates)


def _estimates(
    metrics: Sequence[str], means: Float[ndarray, " M"], replicates: Float[ndarray, "R M"]
) -> dict[str, Estimate]:
    low, high = np.quantile(replicates, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
    return {
        metric: Estimate(float(mean), min(float(mean), float(below)), max(float(mean), float(above)))
        for metric, mean, below, above in zip(metrics, means, low, high, strict=True)
    }
