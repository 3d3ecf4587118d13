"""Turn credits on three tasks whose every advantage is known."""

from dataclasses import replace

import pytest
import torch

from a2tgpo.method import functional
from a2tgpo.method.credits.bellman_closure import BellmanClosure
from a2tgpo.method.credits.shrunken_groups import ShrunkenGroups
from a2tgpo.method.credits.turn_leave_one_out import TurnLeaveOneOut
from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.centre import Centre
from a2tgpo.method.normalizers.none import NoNormalization
from a2tgpo.method.values import lambda_advantage
from tests.helpers.shipped import settings
from tests.helpers.small_mdps import RECOVERY, delayed, population, stopping

TASKS = {"recovery": (RECOVERY, 8), "delayed": (delayed(3), 40), "stopping": (stopping(), 32)}
MENDED = ("bad", "recover")


@pytest.fixture(params=TASKS)
def everyone(request):
    """All courses of a task, each as often as its probability says."""
    return population(*TASKS[request.param])


def same(actual, expected, atol=1e-12):
    actual, expected = (torch.as_tensor(values, dtype=torch.float64) for values in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def outcome_alone(normalizer):
    return replace(PAPER.credit, outcome=normalizer)


def gigpo():
    """GiGPO: outcomes standardised in the prompt, and once more in the anchor state."""
    given = {"outcome": PAPER.credit.outcome, "kappa": 0.0, "tau": 1e-9, "min_visits": 1}
    credit = ShrunkenGroups(**settings("model/credit/shrunken_groups") | given)

    def all_actions_differ(inputs):
        return credit(replace(inputs, action_ids=torch.arange(inputs.turn_mask.numel()).view(inputs.turn_mask.shape)))

    return all_actions_differ


def closure():
    """Q − V of the empirical decision process, not divided by its spread."""
    given = {"outcome": NoNormalization(), "outcome_weight": 0.0, "state_weight": 1e6, "min_std": 1e6, "beta": 1.0}
    return BellmanClosure(**settings("model/credit/bellman_closure") | given)


def test_the_exact_advantages_by_hand():
    mended, late = population(RECOVERY, 8), population(delayed(3), 40)
    assert mended.given_to(MENDED, mended.advantage) == [-0.25, 0.5]
    assert mended.given_to(("good",), mended.advantage) == [0.25]
    same(late.given_to(("good", "left", "left"), late.advantage), [0.3, 0.0, 0.0])
    stop = population(stopping(), 32)
    goes_on = stop.given_to(("go on", "go on", "go on", "go on", "stop"), stop.advantage)
    same(goes_on, [0.8125, -0.375, 0.25, -1.5, 0.0])


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (outcome_alone(NoNormalization()), (1.0, 1.0)),
        (outcome_alone(Centre()), (0.25, 0.25)),
        (outcome_alone(PAPER.credit.outcome), (3**-0.5, 3**-0.5)),
        (gigpo(), (2 * 3**-0.5, 3**-0.5 + 1)),
        (closure(), (-0.25, 0.5)),
    ],
    ids=["outcome", "centred", "grpo", "gigpo", "bellman_closure"],
)
def test_what_a_mistake_and_its_mending_are_given(credit, expected):
    mended = population(RECOVERY, 8)
    same(mended.given_to(MENDED, credit(mended.inputs).advantage), expected)


def test_the_closure_of_all_courses_is_exact(everyone):
    same(closure()(everyone.inputs).advantage, everyone.advantage, atol=1e-9)


def test_an_exact_critic_that_is_trusted_is_exact_where_nothing_is_left_to_chance():
    for task in ("recovery", "stopping"):
        everyone = population(*TASKS[task])
        mask, outcome = everyone.inputs.turn_mask, everyone.inputs.outcome
        found = lambda_advantage(everyone.value, outcome, mask, lam=0.0)
        same(found, everyone.advantage)
        same(found.sum(1), outcome - everyone.value[:, 0])


def test_leave_one_out_per_depth_has_the_exact_gradient(everyone):
    # Mean by action less the mean of the state; in a finite population whoever is left out makes it n/(n − 1) larger.
    inputs = everyone.inputs
    mask, reached = inputs.turn_mask, inputs.turn_mask.sum(0)
    credit = TurnLeaveOneOut(**settings("model/credit/turn_leave_one_out") | {"lone": "raw"})
    advantage = credit(inputs).advantage
    by_action = functional.group_mean(advantage, mask, functional.pair(inputs.state_ids, inputs.action_ids))
    by_state = functional.group_mean(advantage, mask, inputs.state_ids)
    same(by_action - by_state, everyone.advantage * reached / (reached - 1))
