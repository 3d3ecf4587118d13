"""The shapes in the annotations of `method/` and `scoring/` are executed during the tests, without exception."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from a2tgpo.method import functional
from a2tgpo.method.method import PAPER
from a2tgpo.scoring.batch import collate
from tests.helpers.build import build_trajectory
from tests.helpers.observed import credit_inputs, from_beliefs

REWARD, MASK, LABELS = torch.rand(3, 4), torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.long)
REFUSED = (TypeCheckError,)


def test_what_fits_passes():
    assert functional.centre(REWARD, MASK, LABELS).shape == (3, 4)
    assert functional.centre(REWARD.double(), MASK, LABELS).dtype == torch.float64


@pytest.mark.parametrize(
    "arguments",
    [
        (REWARD, MASK[:, :3], LABELS),
        (REWARD, LABELS, MASK),
        (REWARD.long(), MASK, LABELS),
        (REWARD[0], MASK[0], LABELS[0]),
    ],
    ids=["another length", "swapped", "integers", "an axis less"],
)
def test_an_equation_refuses_what_does_not_fit(arguments):
    with pytest.raises(REFUSED):
        functional.centre(*arguments)


def test_a_strategy_refuses_what_does_not_fit():
    with pytest.raises(REFUSED):
        PAPER.credit.normalizer(REWARD, MASK, LABELS)  # labels of turns instead of prompts


def test_what_a_signal_and_a_credit_are_given_is_checked_when_it_is_built():
    seen = from_beliefs(torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(REFUSED):
        replace(seen, state_mask=seen.state_mask[:, 1:])  # T states instead of T + 1
    inputs = credit_inputs(REWARD, MASK, MASK, torch.rand(3))
    with pytest.raises(REFUSED):
        replace(inputs, outcome=torch.rand(3, 1))


def test_a_batch_is_checked_when_it_is_built(random_policy):
    batch = collate([build_trajectory(random_policy, ["<answer> Varo</answer>"], [])], 0)
    with pytest.raises(REFUSED):
        replace(batch, loss_weight=batch.loss_weight[:, 1:])
    with pytest.raises(REFUSED):
        replace(batch, turn_ids=batch.turn_ids.float())


def test_a_method_refuses_what_is_no_strategy():
    with pytest.raises(REFUSED):
        replace(PAPER, clipper=0.2)
