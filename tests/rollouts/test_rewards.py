"""What episodes earn."""

import math
from dataclasses import replace

import pytest
from hydra.utils import instantiate

from a2tgpo.rollouts.rewards.outcome import OutcomeReward
from a2tgpo.rollouts.rewards.overlong import Overlong
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn

METRICS = {"success": 1.0, "em": 1.0, "f1": 0.5}


def ended(stop, metrics):
    return Trajectory(Task("t", "q", ("a",)), 0, 0, (1,), (), 0.0, stop=stop, metrics=metrics)


@pytest.mark.parametrize("outcome", ["em", "f1", "success"])
def test_an_answer_earns_its_metric_and_every_other_end_its_penalty(outcome):
    reward = OutcomeReward(outcome, malformed=-0.5, unanswered=-0.25)
    expected = {StopReason.ANSWERED: METRICS[outcome], StopReason.INVALID_ACTION: -0.5}
    stops = [*StopReason]
    assert reward([ended(stop, METRICS) for stop in stops]) == [expected.get(stop, -0.25) for stop in stops]
    assert reward([]) == []


def test_an_episode_that_did_not_answer_needs_no_metric():
    assert OutcomeReward("em", -1.0, -0.5)([ended(StopReason.TOOL_FAILURE, {})]) == [-0.5]


def test_a_metric_that_nobody_measures_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^data\.reward\.outcome=bleu: expected a metric .* one of em, f1, success$"):
        OutcomeReward("bleu", -1.0, -1.0)([ended(StopReason.ANSWERED, METRICS)])


@pytest.mark.parametrize("name", ["malformed", "unanswered"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_penalty_is_a_finite_number(name, value):
    with pytest.raises(ValueError, match=rf"^data\.reward\.{name}={value}: expected a number"):
        OutcomeReward(**({"outcome": "em", "malformed": -1.0, "unanswered": -1.0} | {name: value}))


def test_the_shipped_reward(composed):
    config = composed("data.reward.outcome=f1")
    assert instantiate(config.data.reward) == OutcomeReward("f1", -1.0, -1.0)
    assert config.data.module.reward == config.data.reward


def long(n_action, n_observation):
    """A trajectory of so many tokens behind a prompt of one."""
    turn = Turn((1,) * n_action, (-1.0,) * n_action, (2,) * n_observation)
    return replace(ended(StopReason.MAX_TOKENS, METRICS), turns=(turn,))


def test_the_penalty_grows_over_the_last_tokens_before_the_limit_whoever_used_them_up():
    lengths = [(1, 59), (60, 0), (1, 69), (70, 10), (99, 1), (100, 20)]
    assert Overlong(max_response_tokens=100, buffer=40)([long(*n) for n in lengths]) == [0, 0, -0.25, -0.5, -1, -1]


def test_a_buffer_is_part_of_the_limit(composed):
    with pytest.raises(ValueError, match=r"^data\.shaping\.buffer=101: expected at most data\.module\.max_resp"):
        Overlong(max_response_tokens=100, buffer=101)
    assert instantiate(composed("data/shaping=overlong").data.shaping) == Overlong(384, 128)
