"""Groups without spread, gains below rounding, first ratios that are not 1: each is found, with its override."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.check.credit import first_ratio, resolution_of, rounding, spread
from a2tgpo.check.findings import Verdict
from a2tgpo.method.method import PAPER
from a2tgpo.scoring.batch import collate
from a2tgpo.training.metrics import Movement
from tests.helpers.build import build_trajectory

SEARCH, ANSWER, RESULT = "<search> Varo</search>", "<answer> Varo</answer>", "<result> Varo is a town.</result>"
LOG = replace(PAPER, signal=replace(PAPER.signal, gain="log_prob"))


def at(method, resolution):
    return replace(
        method, credit=replace(method.credit, normalizer=replace(method.credit.normalizer, resolution=resolution))
    )


def scored(policy, outcomes, gains, belief=0.5):
    """Groups of two, with their outcomes and the gains of the first turns."""
    trajectories = [
        build_trajectory(policy, [SEARCH, ANSWER], [RESULT], n // 2, n % 2, outcome)
        for n, outcome in enumerate(outcomes)
    ]
    batch = collate(trajectories, 0)
    gain = torch.zeros(batch.turn_mask.shape)
    gain[:, 0] = torch.tensor(gains)
    beliefs = torch.full((len(gain), gain.shape[1] + 1), belief)
    credit = replace(batch.credit, gain=gain, gain_mask=batch.process_mask, belief=beliefs)
    hat = PAPER.credit.normalizer(gain, batch.process_mask, batch.group_ids)
    difference = torch.tensor(outcomes).view(-1, 2)
    taught = (difference[:, :1] != difference[:, 1:]).float().expand(-1, 2).reshape(-1, 1)
    return trajectories, replace(batch, credit=replace(credit, normalized_gain=hat, advantage=hat + taught))


def test_groups_with_spread_are_counted(random_policy):
    outcomes, gains = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.2, 0.3, 0.3]
    (finding,) = spread(*scored(random_policy, outcomes, gains))
    assert finding.figures == {"groups": 3, "outcomes": 1, "gains": 1, "taught": 2} and finding.verdict is Verdict.GOOD


def test_equal_groups_teach_nothing(random_policy):
    (finding,) = spread(*scored(random_policy, [-1.0] * 4, [0.1] * 4))
    assert finding.verdict is Verdict.BAD and "0 teach something" in finding.says and finding.mend


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (PAPER, 4 * 0.05 * 0.5),
        (LOG, 4 * 0.05),
        (at(PAPER, 1e-4), 1e-4),
    ],
)
def test_resolution_is_four_times_the_noise_or_what_was_set(method, expected):
    assert resolution_of(method, 0.05, 0.5) == pytest.approx(expected)
    assert resolution_of(PAPER, 0.0, 0.5) == 1e-6


def test_rounding_that_gets_credit_is_bad(random_policy):
    _, batch = scored(random_policy, [1.0, 0.0], [0.01, 0.02])
    (fixed,) = rounding(batch, 0.05, at(PAPER, 1e-6))
    assert fixed.verdict is Verdict.BAD and fixed.mend == "model.normalizer.resolution=auto"
    (hidden,) = rounding(batch, 0.05, PAPER)
    assert hidden.verdict is Verdict.DOUBTFUL and "100% of the gains are below it" in hidden.says
    (fine,) = rounding(batch, 0.0, at(PAPER, 1e-6))
    assert fine.verdict is Verdict.GOOD and "float32" in fine.says
    (large,) = rounding(scored(random_policy, [1.0, 0.0], [0.3, 0.4])[1], 0.05, PAPER)
    assert large.verdict is Verdict.GOOD and "resolution auto, about 0.1" in large.says


def test_without_gains_rounding_is_no_subject(random_policy):
    _, batch = scored(random_policy, [1.0, 0.0], [0.1, 0.2])
    none = replace(batch, credit=replace(batch.credit, gain_mask=torch.zeros_like(batch.process_mask)))
    assert not [*rounding(none, 0.05, PAPER)]


@pytest.mark.parametrize(("outside", "verdict"), [(0, Verdict.GOOD), (1, Verdict.GOOD), (5, Verdict.BAD)])
def test_turns_that_start_outside_their_range_are_bad(outside, verdict):
    moved = Movement(torch.tensor([[0], [100]]), torch.tensor([outside, 100]), 0.25)
    finding = first_ratio(moved, gap=0.02)
    assert finding.verdict is verdict and f"{outside}% of the turns" in finding.says
    assert bool(finding.mend) == (verdict is Verdict.BAD)
