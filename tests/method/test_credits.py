"""Turn credits: hand numbers, reductions to their neighbours, and loops against vectors."""

from dataclasses import replace
from statistics import fmean

import pytest
import torch

from a2tgpo.method import functional
from a2tgpo.method.credits.turn_leave_one_out import TurnLeaveOneOut
from a2tgpo.method.method import PAPER
from tests.helpers.observed import credit_inputs, random_observed
from tests.helpers.shipped import settings

SEEDS = range(5)


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def same(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def played(gains, outcome, group_ids=None):
    """Trajectories from the gain of each turn: None where the turn has none, nothing where there is no turn."""
    width = max(map(len, gains))
    table = [[*row, *[None] * (width - len(row))] for row in gains]
    gain_mask = torch.tensor([[gain is not None for gain in row] for row in table])
    turn_mask = torch.arange(width) < torch.tensor([len(row) for row in gains])[:, None]
    groups = None if group_ids is None else torch.tensor(group_ids)
    return credit_inputs(
        doubles([[gain or 0.0 for gain in row] for row in table]), gain_mask, turn_mask, doubles(outcome), groups
    )


def random_inputs(seed):
    """What the paper's signal says of random trajectories; each trajectory of a prompt is one of several."""
    seen = random_observed(seed, rows=12)
    gains = PAPER.signal(seen)
    inputs = credit_inputs(gains.gain, gains.gain_mask, seen.turn_mask, seen.outcome, seen.group_ids)
    states = seen.state_ids + 100 * seen.group_ids[:, None]
    return replace(
        inputs, belief=gains.belief, state_ids=states, action_ids=seen.action_ids % 3, n_new_pieces=seen.n_new_pieces
    )


# ---- leave-one-out per depth -----------------------------------------------------------------------------------------


def turn_leave_one_out(**changes):
    return TurnLeaveOneOut(**settings("model/credit/turn_leave_one_out") | changes)


SEARCHES = ([0.2, 0.3, None], [-0.1, None], [None], [0.4, None], [0.1, 0.1, 0.1])


@pytest.mark.parametrize(("lone", "deepest"), [("raw", (1.0, -0.95)), ("outcome", (1.0, -1.95))])
def test_turn_leave_one_out_by_hand(lone, deepest):
    # Returns 1.235 1.15 1 · −.05 0 · 0 | 1.2 1 · −.8645 −.905 −.95; nobody else of its prompt has a third turn.
    inputs = played(SEARCHES, [1.0, 0.0, 0.0, 1.0, -1.0], [0, 0, 0, 1, 1])
    outputs = turn_leave_one_out(alpha=0.5, gamma=0.9, lone=lone)(inputs)
    expected = [[1.26, 1.15, deepest[0]], [-0.6675, -1.15, 0], [-0.5925, 0, 0], [2.0645, 1.905, 0]]
    same(outputs.advantage, doubles([*expected, [-2.0645, -1.905, deepest[1]]]))


def test_searches_that_all_hurt_are_not_rewarded():
    # Six of sixteen search a fifth time and lose by it. Standardised among themselves five of them are praised.
    gains = [-0.0977, -0.0722, -0.4014, -0.0430355072, -0.0468, -0.0168]
    inputs = played([*([gain, None] for gain in gains), *[[None]] * 10], [0.0] * 16)
    advantage = turn_leave_one_out(alpha=1.0)(inputs).advantage[:, 0]
    searched = doubles([-0.0590, -0.0318, -0.3830, -0.0007, -0.0047, 0.0273])
    same(advantage, torch.cat([searched, doubles([0.0452] * 10)]), atol=5e-5)
    standardised = PAPER.credit.normalizer(inputs.gain, inputs.gain_mask, inputs.group_ids)[:6, 0]
    same(
        standardised, doubles([0.1161, 0.3104, -2.1948, 0.5324, 0.5039, 0.7319]), atol=3e-4
    )  # of gains with more digits


@pytest.mark.parametrize("seed", SEEDS)
def test_turn_leave_one_out_is_its_equation(seed):
    inputs, credit = random_inputs(seed), turn_leave_one_out(alpha=0.5, gamma=0.9)
    n_rows, n_turns = inputs.turn_mask.shape
    outcome, prompts = inputs.outcome.tolist(), inputs.group_ids.tolist()

    def total(row, t):
        gains = [(k, float(inputs.gain[row, k])) for k in range(t, n_turns) if inputs.gain_mask[row, k]]
        return outcome[row] + sum(0.9 ** (k - t) * 0.5 * gain for k, gain in gains)

    expected = torch.zeros(n_rows, n_turns, dtype=torch.float64)
    for row in range(n_rows):
        others = [other for other in range(n_rows) if other != row and prompts[other] == prompts[row]]
        for t in range(n_turns):
            there = [total(other, t) for other in others if inputs.turn_mask[other, t]]
            baseline = there or [outcome[other] for other in others] or [total(row, t)]
            expected[row, t] = total(row, t) - fmean(baseline) if inputs.turn_mask[row, t] else 0.0
    same(credit(inputs).advantage, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_gains_and_with_equal_lengths_it_is_rloo(seed):
    inputs = random_inputs(seed)
    inputs = replace(inputs, turn_mask=torch.ones_like(inputs.turn_mask), gain_mask=inputs.gain_mask & False)
    rloo, _ = functional.leave_one_out(inputs.outcome[:, None], inputs.turn_mask[:, :1], inputs.group_ids[:, None])
    outputs = turn_leave_one_out()(inputs)
    same(outputs.advantage, rloo.expand(-1, inputs.turn_mask.shape[1]))
    assert not outputs.turn_credit.any()
