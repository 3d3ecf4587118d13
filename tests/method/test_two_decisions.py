"""Whose expected gradient is the exact one, and which way the others push: the two-decision task."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.method.accumulators.discounted import Discounted
from a2tgpo.method.credits.turn_leave_one_out import TurnLeaveOneOut
from a2tgpo.method.functional import centre, discounted_sum, turn_groups
from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.prompt_group import PromptGroup
from tests.helpers.shipped import settings
from tests.helpers.two_decisions import EXACT, after_a_good_gain, gradient, independent, play

N_GROUPS = 40_000


@pytest.fixture(scope="module")
def played():
    return play(N_GROUPS, independent)


def is_gradient(advantage, played, expected):
    """Within four standard errors; all are below .001, a tenth of what is told apart."""
    found, error = gradient(advantage, played)
    assert (error < 1e-3).all() and ((found - torch.as_tensor(expected)).abs() < 4 * error).all(), (found, error)


def per_depth(inputs):
    return turn_groups(inputs.group_ids, inputs.turn_mask.shape[1])


def test_leave_one_out_per_depth_is_exact(played):
    credit = TurnLeaveOneOut(**settings("model/credit/turn_leave_one_out") | {"alpha": 1.0, "lone": "raw"})
    is_gradient(credit(played.inputs).advantage, played, EXACT)


def test_gains_normalised_in_their_turn_group_say_nothing_of_whether_to_search(played):
    summed = replace(PAPER.credit, accumulator=Discounted(gamma=1.0))
    is_gradient(summed(played.inputs).advantage, played, [0.0, 0.0])


def test_gains_normalised_over_the_prompt_push_against_searches_that_gain_less_than_others(played):
    pooled = replace(PAPER.credit, normalizer=PromptGroup(resolution=0.0), accumulator=Discounted(gamma=1.0))
    is_gradient(pooled(played.inputs).advantage, played, [0.0, -0.1217])


def test_the_root_of_n_pushes_towards_search_where_good_gains_end_it():
    played = play(N_GROUPS, after_a_good_gain)
    is_gradient(PAPER.credit(played.inputs).advantage, played, [0.0167, 0.0])


def test_answers_that_join_the_turn_group_with_a_gain_of_zero_lose_a_fifth(played):
    inputs = played.inputs
    joined = centre(inputs.gain, inputs.turn_mask, per_depth(inputs))
    is_gradient(discounted_sum(joined, inputs.turn_mask, 1.0), played, [0.0703, 0.0110])


def test_centring_instead_of_leaving_out_shrinks_by_the_size_of_the_group(played):
    inputs = played.inputs
    returns = discounted_sum(inputs.gain, inputs.turn_mask, 1.0)
    is_gradient(centre(returns, inputs.turn_mask, per_depth(inputs)), played, [0.0819, 0.0109])
