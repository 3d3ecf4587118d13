"""Paired contrasts: by hand, against counting all signs, and where there is no spread."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap

from a2tgpo.evaluation.contrasts import contrast, holm, interval

A = {0: 0.5, 1: 0.6, 2: 0.4, 3: 0.7, 4: 0.55}
B = {0: 0.4, 1: 0.45, 2: 0.41, 3: 0.5, 4: 0.5}


def by_counting(differences):
    """Share of all signs whose mean lies as far from 0."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = (signs * differences).mean(axis=1)
    return np.mean(np.abs(means) >= abs(np.mean(differences)) - 1e-12)


def test_a_contrast_by_hand():
    found = contrast(("a", A), ("b", B))
    differences = [0.1, 0.15, -0.01, 0.2, 0.05]
    assert (found.first, found.second, found.seeds) == ("a", "b", (0, 1, 2, 3, 4))
    assert found.difference == pytest.approx(0.098, abs=1e-12)
    assert found.p == by_counting(differences) == 4 / 32
    many = bootstrap((np.array(differences),), np.mean, n_resamples=200_000, method="BCa", rng=np.random.default_rng(1))
    assert (found.low, found.high) == pytest.approx(tuple(many.confidence_interval), abs=0.002)


def test_other_way_round_is_the_negative():
    there, back = contrast(("a", A), ("b", B)), contrast(("b", B), ("a", A))
    assert back.difference == -there.difference and back.p == there.p
    assert back.low == pytest.approx(-there.high, abs=0.004)


def test_the_least_p_value_of_twelve_seeds():
    better = {seed: 0.1 + seed / 100 for seed in range(12)}
    assert contrast(("a", better), ("b", dict.fromkeys(range(12), 0.0))).p == 2**-11


def test_only_shared_seeds_count():
    assert contrast(("a", A), ("b", {**B, 9: 1.0, 3: 0.1})).seeds == (0, 1, 2, 3, 4)
    with pytest.raises(ValueError, match="a and b share 2 seeds; expected at least 3"):
        contrast(("a", {0: 1.0, 1: 1.0}), ("b", B))


def test_without_spread_the_interval_is_a_point():
    found = contrast(("a", dict.fromkeys(range(4), 0.5)), ("b", dict.fromkeys(range(4), 0.25)))
    assert (found.low, found.difference, found.high, found.p) == (0.25, 0.25, 0.25, 2 / 16)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_the_interval_of_a_mean_over_seeds():
    values = list(A.values())
    many = bootstrap((np.array(values),), np.mean, n_resamples=200_000, method="BCa", rng=np.random.default_rng(1))
    assert interval(values) == pytest.approx(tuple(many.confidence_interval), abs=0.002)
    with pytest.raises(ValueError, match="2 values; expected at least 3 for an interval"):
        interval(values[:2])
