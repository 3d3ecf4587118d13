"""What a token counts that the engine sampled with other probabilities than the trainer's."""

import math

import pytest
import torch

from a2tgpo.method.corrections.none import NoCorrection
from a2tgpo.method.corrections.truncated_importance import TruncatedImportance

TURNS = torch.tensor([[-1, 0, 0, -1, 1, 1]])
OLD = torch.tensor([[0.3, 0.5, 0.2, 0.9, 0.9, 0.25]]).log()
ROLLOUT = torch.tensor([[0.1, 0.25, 0.8, 0.1, 0.1, 0.25]]).log()


def test_each_action_token_counts_by_its_truncated_ratio():
    weight = TruncatedImportance(cap=3.0)(OLD, ROLLOUT, TURNS)
    torch.testing.assert_close(weight, torch.tensor([[0.0, 2.0, 0.25, 0.0, 3.0, 1.0]]), rtol=0, atol=1e-6)


def test_equal_log_probs_count_exactly_once():
    assert torch.equal(TruncatedImportance(cap=2.0)(OLD, OLD, TURNS), NoCorrection()(OLD, ROLLOUT, TURNS))
    assert torch.equal(NoCorrection()(OLD, ROLLOUT, TURNS), (TURNS >= 0).float())


def test_what_is_no_action_token_is_not_read_and_no_gradient_flows():
    hidden = torch.where(TURNS >= 0, OLD, torch.nan).requires_grad_()
    weight = TruncatedImportance(cap=2.0)(hidden, ROLLOUT, TURNS)
    assert weight.isfinite().all() and not weight.requires_grad


def test_the_corrected_mean_under_the_engine_is_the_mean_under_the_trainer():
    trainer, engine = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.4, 0.3])
    weight = TruncatedImportance(cap=10.0)(trainer.log()[None], engine.log()[None], torch.zeros(1, 3, dtype=torch.long))
    values = torch.tensor([1.0, -2.0, 5.0])
    assert float((engine * weight[0] * values).sum()) == pytest.approx(float((trainer * values).sum()), abs=1e-6)


@pytest.mark.parametrize("cap", [0.5, math.inf, math.nan])
def test_a_cap_must_be_finite_and_at_least_one(cap):
    with pytest.raises(ValueError, match=rf"model.correction.cap={cap}: expected a number >= 1"):
        TruncatedImportance(cap)
