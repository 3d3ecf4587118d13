"""Every figure a user looks at, against numbers worked out by hand on a small built rollout set."""

import math
from dataclasses import fields, replace

import pytest
import torch

from a2tgpo.method.combiners.additive import Additive
from a2tgpo.method.method import PAPER
from a2tgpo.rollouts.trajectory import StopReason
from a2tgpo.scoring.batch import collate
from a2tgpo.training import metrics as metrics_of
from a2tgpo.training.meters import EpisodeMeter
from tests.helpers.build import build_trajectory
from tests.helpers.observed import credit_inputs

SEARCH, ANSWER, RESULT = "<search> Varo</search>", "<answer> Varo</answer>", "<result> Nothing was found.</result>"

UNEVEN = [{"useful_calls": 1.0}, {"useful_calls": 3.0}, {}, {"useful_calls": 2.0}]


@pytest.fixture
def trajectories(random_policy):
    """Prompt 0: two trajectories with 2 and 1 searches and an answer, outcomes 1 and 0. Prompt 1: outcomes equal."""
    return [
        build_trajectory(random_policy, [SEARCH, SEARCH, ANSWER], [RESULT] * 2, 0, 0, 1.0),
        build_trajectory(random_policy, [SEARCH, ANSWER], [RESULT], 0, 1, 0.0),
        build_trajectory(random_policy, [SEARCH, ANSWER], [RESULT], 1, 0, 0.0),
        build_trajectory(random_policy, [SEARCH, "<answer> Varo"], [RESULT], 1, 1, 0.0, StopReason.MAX_TOKENS),
    ]


@pytest.fixture
def batch(trajectories):
    """Gains 0.1, 0.3 in turn 1 of prompt 0 (z: −1, 1), 0.5 alone in turn 2 (z: 0), and 0.2 twice in prompt 1 (z: 0)."""
    batch = collate(trajectories, 0)
    gain = torch.tensor([[0.1, 0.5, 0.0], [0.3, 0.0, 0.0], [0.2, 0.0, 0.0], [0.2, 0.0, 0.0]])
    return replace(batch, credit=replace(batch.credit, gain=gain, gain_mask=batch.process_mask))


def credited(batch, alpha=1.0):
    """The batch with the paper's credit for its gains."""
    credit, given = replace(PAPER.credit, combiner=Additive(alpha)), batch.credit
    outputs = credit(credit_inputs(given.gain, given.gain_mask, batch.turn_mask, batch.outcome, batch.group_ids))
    named = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    return replace(batch, credit=replace(given, **named))


def close(expected):
    return pytest.approx(expected, rel=0, abs=1e-6)


def test_coverage_and_shares_of_groups(batch):
    metrics = metrics_of.credit_metrics(credited(batch))
    assert metrics["credit/gain_coverage"] == 1.0  # 5 gains, 5 process turns
    assert metrics["credit/singleton_turn_groups"] == close(1 / 3)  # (0, 1) has two members, (0, 2) one, (1, 1) two
    assert metrics["credit/no_spread_turn_groups"] == close(1 / 3)  # (1, 1): both 0.2
    assert metrics["credit/equal_outcome_prompts"] == 0.5


def test_coverage_counts_process_turns_without_a_gain(batch):
    mask = batch.credit.gain_mask.clone()
    mask[:, 0] = False

    def with_gains(gain_mask, process_mask):
        return replace(batch, process_mask=process_mask, credit=replace(batch.credit, gain_mask=gain_mask))

    metrics = metrics_of.credit_metrics(credited(with_gains(mask, batch.process_mask)))
    assert metrics["credit/gain_coverage"] == close(1 / 5)
    none = with_gains(torch.zeros_like(mask), torch.zeros_like(mask))
    assert metrics_of.credit_metrics(credited(none))["credit/gain_coverage"] == 0.0


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_drift_plot_by_turn_index(batch, alpha):
    metrics = metrics_of.credit_metrics(credited(batch, alpha))
    root = math.sqrt(2)
    columns = {
        ("gain", 1): [0.1, 0.3, 0.2, 0.2],
        ("gain", 2): [0.5],
        ("normalized_gain", 1): [-1, 1, 0, 0],
        ("normalized_gain", 2): [0],
        # α·D/√n: (−1 + 0)/√2 in the row with two gains, 1/√1 in the other
        ("turn_credit", 1): [-alpha / root, alpha, 0, 0],
        ("turn_credit", 2): [0],
        # R̂ = 1, −1 in prompt 0, 0 in prompt 1
        ("advantage", 1): [1 - alpha / root, -1 + alpha, 0, 0],
        ("advantage", 2): [1, -1, 0, 0],
        ("advantage", 3): [1],
    }
    for (name, turn), values in columns.items():
        column = torch.tensor(values, dtype=torch.float64)
        assert metrics[f"credit/{name}/turn_{turn}/mean"] == close(column.mean().item())
        assert metrics[f"credit/{name}/turn_{turn}/std"] == close(column.std(correction=0).item())
    drift = {name for name in metrics if "/turn_" in name}
    assert drift == {f"credit/{name}/turn_{turn}/{stat}" for name, turn in columns for stat in ("mean", "std")}


def test_credit_of_useful_and_useless_searches(trajectories, batch):
    def judged(trajectory, *useful):
        turns = [replace(turn, useful=truth) for turn, truth in zip(trajectory.turns, useful, strict=True)]
        return replace(trajectory, turns=tuple(turns))

    assert metrics_of.usefulness_metrics(trajectories, batch) == {}
    known = [judged(trajectories[0], True, False, None), judged(trajectories[1], True, None), *trajectories[2:]]
    metrics = metrics_of.usefulness_metrics(known, credited(batch))
    assert metrics["credit/gain/useful_searches"] == close((0.1 + 0.3) / 2)
    assert metrics["credit/gain/useless_searches"] == close(0.5)
    assert metrics["credit/normalized_gain/useful_searches"] == close((-1 + 1) / 2)
    # R̂ = 1, −1 and α·D/√n = −1/√2, 1 in turn 1; R̂ = 1 and D = 0 in turn 2
    assert metrics["credit/advantage/useful_searches"] == close((1 - 1 / math.sqrt(2) - 1 + 1) / 2)
    assert metrics["credit/advantage/useless_searches"] == close(1.0)


def test_episode_figures(trajectories):
    played = [replace(t, metrics={"em": t.outcome, "searches": float(len(t.turns) - 1)}) for t in trajectories]
    metrics = metrics_of.episode_metrics(played)
    assert metrics["reward"] == metrics["em"] == 0.25
    assert metrics["turns"] == 9 / 4 and metrics["searches"] == 5 / 4
    assert metrics["action_tokens"] == sum(len(turn.action_ids) for t in trajectories for turn in t.turns) / 4
    assert metrics["tokens"] == sum(len(t.token_ids) for t in trajectories) / 4
    assert metrics["stop/answered"] == 0.75 and metrics["stop/max_tokens"] == 0.25
    assert {f"stop/{stop}" for stop in StopReason} <= set(metrics)
    assert sum(metrics[f"stop/{stop}"] for stop in StopReason) == 1.0


def test_a_metric_that_some_episodes_lack_is_a_mean_over_the_others(trajectories):
    played = [replace(t, metrics={"em": 1.0, **known}) for t, known in zip(trajectories, UNEVEN, strict=True)]
    assert metrics_of.episode_metrics(played)["useful_calls"] == 2.0 and metrics_of.episode_metrics(played)["em"] == 1.0
    meter = EpisodeMeter()
    for part in (played[:3], played[3:]):
        meter.add(part, torch.device("cpu"))
    means = meter.take(torch.device("cpu"))
    assert means["useful_calls"] == 2.0 and means["em"] == 1.0 and means["reward"] == 0.25
    meter.add(played[2:3], torch.device("cpu"))
    assert "useful_calls" not in meter.take(torch.device("cpu"))


def test_a_family_has_a_least_member_and_so_many_that_are_mastered(trajectories):
    known = [{"choice/a": 1.0}, {"choice/a": 0.875, "choice/b": 1.0}, {"choice/b": 0.5}, {"choice/c": 1.0, "cost": 2.0}]
    meter = EpisodeMeter()
    meter.add([replace(t, metrics=m) for t, m in zip(trajectories, known, strict=True)], torch.device("cpu"))
    means = meter.take(torch.device("cpu"))
    assert {name: float(mean) for name, mean in means.items() if "choice_" in name} == {
        "choice_least": 0.75,
        "choice_mastered": 2.0,  # a and c
    }
    assert not {"stop_least", "cost_least"} & set(means)


def test_policy_figures_speak_about_action_tokens_only(batch):
    mask = batch.turn_ids >= 0
    old = torch.where(mask, -1.0, 7.0)
    old[0, mask[0].nonzero()[0]] = -1.5  # the engine said −1 everywhere
    entropy = torch.where(mask, 0.25, 99.0)
    reference = torch.where(mask, old + math.log(2), -50.0)
    metrics = metrics_of.policy_metrics(replace(batch, old_logprobs=old, ref_logprobs=reference), entropy, True)
    assert metrics["policy/entropy"] == close(0.25)
    assert metrics["policy/rollout_gap_max"] == close(0.5)
    assert metrics["policy/rollout_gap_mean"] == close(0.5 / int(mask.sum()))
    assert metrics["policy/kl_to_reference"] == close(1 - math.log(2))  # e^d − 1 − d at d = ln 2
    without = metrics_of.policy_metrics(replace(batch, old_logprobs=old), entropy, False)
    assert set(metrics) - set(without) == {"policy/kl_to_reference"}


def test_clip_fraction_by_turn_index(batch):
    mask = batch.turn_ids >= 0
    clipped = (batch.turn_ids == 0) & (torch.arange(4) < 1)[:, None] | ~mask  # turn 1 of the first row; padding is set
    logprobs = torch.where(mask, batch.old_logprobs, 100.0)
    logprobs[1, mask[1].nonzero()[-1]] -= 0.75
    moved = metrics_of.movement(batch, logprobs, torch.zeros_like(logprobs), clipped)
    assert moved.max_log_ratio == close(0.75)
    metrics = metrics_of.clip_metrics(moved.clipped)
    size = {turn: int((batch.turn_ids == turn).sum()) for turn in range(3)}
    assert metrics["update/clip_fraction/turn_1"] == close(0.25)  # one of four equal turns
    assert metrics["update/clip_fraction/turn_2"] == metrics["update/clip_fraction/turn_3"] == 0.0
    assert metrics["update/clip_fraction"] == close(size[0] / 4 / sum(size.values()))


def test_turns_that_are_outside_their_clip_range(batch):
    mask, bounds = batch.turn_ids >= 0, torch.full_like(batch.credit.gain, 0.1)
    batch = replace(batch, credit=replace(batch.credit, clip_low=bounds, clip_high=2 * bounds))
    log_ratio = torch.where(mask, 0.0, 9.0)
    log_ratio[0, batch.turn_ids[0] == 0] = math.log(1.21)  # above 1.2
    log_ratio[0, batch.turn_ids[0] == 1] = math.log(1.19)
    log_ratio[2, (batch.turn_ids[2] == 1).nonzero()[-1]] = math.log(0.89)  # below 0.9, in one token
    moved = metrics_of.movement(batch, batch.old_logprobs, log_ratio, torch.zeros_like(mask))
    assert moved.outside.tolist() == [2, 9] and moved.max_log_ratio == 0.0


def test_a_turn_index_without_tokens_has_no_clip_fraction():
    metrics = metrics_of.clip_metrics(torch.tensor([[1, 0], [4, 0]]))
    assert metrics == {"update/clip_fraction": 0.25, "update/clip_fraction/turn_1": 0.25}
