"""What turns are worth by their order, and by their absence."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.method.method import PAPER
from a2tgpo.method.signals.leave_one_turn import LeaveOneTurn
from tests.helpers.observed import from_beliefs
from tests.helpers.shipped import settings

SIGNAL = LeaveOneTurn(**settings("model/signal/leave_one_turn"))
PAIRS = {
    "redundant": ([0.1, 0.9, 0.9], [0.9, 0.9], [0.8, 0.0], [0.0, 0.0]),
    "needed together": ([0.1, 0.1, 0.9], [0.1, 0.1], [0.0, 0.8], [0.8, 0.8]),
    "one alone matters": ([0.1, 0.9, 0.9], [0.1, 0.9], [0.8, 0.0], [0.8, 0.0]),
}
"""Beliefs as two results came, and at the end without each; gain over the turn, and by its absence."""


@pytest.mark.parametrize("name", PAIRS)
def test_a_gain_by_order_and_a_gain_by_absence(name):
    belief, without, by_order, by_absence = (torch.tensor([values], dtype=torch.float64) for values in PAIRS[name])
    seen = from_beliefs(belief, torch.ones(1, 3, dtype=torch.bool))
    seen = replace(seen, answer_logprob_without=without.log()[..., None])
    for signal, expected in ((PAPER.signal, by_order), (SIGNAL, by_absence)):
        gains = signal(seen)
        torch.testing.assert_close(gains.gain, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(gains.belief, belief, rtol=0, atol=1e-12)


def test_the_end_is_the_last_result_of_each_trajectory():
    states = torch.tensor([[True, True, True], [True, True, False]])
    seen = from_beliefs(torch.tensor([[0.1, 0.3, 0.9], [0.2, 0.6, 0.0]], dtype=torch.float64), states)
    gains = SIGNAL(seen)  # without a turn the belief is here what it was before it
    expected = torch.tensor([[0.8, 0.6], [0.4, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gains.gain, expected, rtol=0, atol=1e-12)
    assert gains.gain_mask.tolist() == [[True, True], [True, False]]


def test_whoever_does_not_score_without_turns_is_told():
    seen = replace(from_beliefs(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)), answer_logprob_without=None)
    with pytest.raises(ValueError, match="model/signal=leave_one_turn: the answers were not scored without each turn"):
        SIGNAL(seen)
