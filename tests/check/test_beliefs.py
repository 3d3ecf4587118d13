"""Reference calls against foreign ones, by wrapper and answer length."""

import math
import shlex
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from a2tgpo.check.beliefs import WrapperBeliefs, beliefs, chosen, score_wrappers, wrappers
from a2tgpo.check.findings import Verdict
from a2tgpo.check.forced import force
from a2tgpo.rollouts.trajectory import Split
from tests.helpers.observed import from_beliefs

THOUGHT = ("<think> done</think>\n<answer> ", " </answer>")


def test_wrappers_without_blanks_and_without_a_thought():
    assert wrappers(THOUGHT) == [
        THOUGHT,
        ("<think> done</think>\n<answer>", "</answer>"),
        ("<answer> ", " </answer>"),
        ("<answer>", "</answer>"),
    ]
    assert wrappers(("<answer>", "</answer>")) == [("<answer>", "</answer>")]


def made(wrapper, own, foreign, lengths, noise=0.0):
    """Of each task the beliefs along its own episode and along the other one."""
    belief = torch.tensor([*own, *foreign])
    groups = torch.arange(len(lengths)).repeat(2)
    seen = from_beliefs(belief, torch.ones_like(belief, dtype=torch.bool), group_ids=groups)
    return WrapperBeliefs(wrapper, replace(seen, log_gain_noise=noise), lengths)


OWN = [[1e-6, 2e-6], [1e-6, 1e-6], [0.1, 0.5], [0.1, 0.2]]
FOREIGN = [[1e-6, 4e-6], [1e-6, 1.5e-6], [0.1, 0.2], [0.1, 0.1]]
SHIPPED = made(THOUGHT, OWN, FOREIGN, [1, 1, 3, 4])


def test_figures_by_the_length_of_the_answer():
    table = SHIPPED.by_length()
    assert list(table) == ["1 token", "2 or 3 tokens", "4 tokens and more", "all"]
    assert [row["questions"] for row in table.values()] == [2, 1, 1, 4]
    for figure in ("ranked", "pairs_prob", "pairs_log_prob"):
        assert [row[figure] for row in table.values()] == [0.0, 1.0, 1.0, 0.5]
    assert table["1 token"]["log_gain_own"] == pytest.approx(math.log(2) / 2, abs=1e-6)
    states = [table["2 or 3 tokens"][f"belief_{state}"] for state in ("before", "own", "foreign")]
    assert states == pytest.approx([0.1, 0.5, 0.2], abs=1e-6)


def test_pairs_are_of_all_turns_of_a_question_and_unlike_in_nats():
    """Own gains 0.1 and 0.3, or ln 2 and ln 2.5; others' 0.05 and 0.13, or ln 1.5 and ln 1.87."""
    row = made(THOUGHT, [[0.1, 0.2, 0.5]], [[0.1, 0.15, 0.28]], [2]).row([0])
    assert (row["pairs_prob"], row["pairs_log_prob"]) == (3 / 4, 1.0)


def test_a_pair_of_equal_gains_is_half_right():
    row = made(THOUGHT, [[0.25, 0.5]], [[0.25, 0.5]], [2]).row([0])
    assert (row["pairs_prob"], row["pairs_log_prob"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("noise", "prob", "log_prob"),
    [(0.0, [0.5, 1.0], [1.0, 1.0]), (0.2, [0.0, 0.0], [0.0, 0.5])],
)
def test_turn_groups_are_live_above_what_rounding_does_to_them(noise, prob, log_prob):
    """Of the first two tasks the gains differ by 2e-6 and 5e-7, of the others by 0.3 and 0.1; in nats by 0.69, 0.41,
    0.92 and 0.69. Four times a noise of 0.2 nats is 0.8; of the last two in probability 0.4 and 0.16."""
    found = made(THOUGHT, OWN, FOREIGN, [1, 1, 3, 4], noise)
    for rows, n in (([0, 1], 0), ([2, 3], 1)):
        row = found.row(rows)
        assert (row["live_prob"], row["live_log_prob"]) == (prob[n], log_prob[n])


def test_chance_a_better_wrapper_and_small_beliefs_are_found():
    other = made(("<answer>", "</answer>"), [[0.1, 0.2]] * 4, [[0.1, 0.15]] * 4, [1] * 4)
    ranking, wrapper, size = beliefs([SHIPPED, other], "prob", 1e-4)
    assert ranking.verdict is Verdict.BAD and "0% of 2 questions (1 token)" in ranking.says
    assert wrapper.mend == """'data.dialect.answer_wrapper=["<answer>","</answer>"]'"""
    assert size.verdict is Verdict.DOUBTFUL and size.mend == "model.signal.gain=log_prob"
    assert size.says.startswith("of the gains of right calls 100% (1 token), 50% (all) are within 0.0001")
    (alone,) = beliefs([other], "prob", 1e-4)
    assert alone.verdict is Verdict.GOOD
    assert len([*beliefs([SHIPPED], "log_prob", 0.1)]) == 1


@pytest.mark.parametrize("wrapper", [THOUGHT, ("It is \\boxed{", "} </answer>"), ('<answer> "', '"</answer>')])
def test_the_override_of_a_wrapper_is_taken_as_it_is_printed(composed, wrapper):
    config = composed(*shlex.split(chosen(wrapper)))
    assert tuple(config.model.module.answer_wrapper) == wrapper


def test_short_answers_that_lose_their_gains_among_long_ones_are_found():
    """One answer in six."""
    found = made(THOUGHT, [OWN[1], *[OWN[3]] * 5], [OWN[0], *[FOREIGN[3]] * 5], [1, *[4] * 5])
    *_, size = beliefs([found], "prob", 1e-4)
    shares = {"1 token": 1, "4 tokens and more": 0, "all": 1 / 6}
    assert size.figures["within_resolution"] == pytest.approx(shares, abs=1e-6)
    assert size.says.startswith("of the gains of right calls 100% (1 token) are within")


@pytest.mark.parametrize("trained", [True, False])
def test_forced_calls_are_played_with_the_real_tools_and_told_apart(composed, random_policy, trained):
    config = composed("experiment=a2tgpo")
    data = instantiate(config.data.module, _convert_="all")
    policy = instantiate(config.model.policy, _convert_="all") if trained else random_policy
    tasks = [data.tasks.split(Split.TRAIN)[n] for n in range(6)]
    pairs = force(data.rollout, policy, tasks)
    assert [task.task_id for task in pairs.tasks] == [task.task_id for task in tasks]
    assert all(own.turns[0].useful for own in pairs.own)
    assert not any(turn.useful for foreign in pairs.foreign for turn in foreign.turns)
    wrapper = tuple(config.data.dialect.answer_wrapper)
    own, *_ = score_wrappers(policy, pairs, wrappers(wrapper), 4096, 0.0)
    assert own.wrapper == wrapper
    if trained:
        assert own.ranked == 1.0
    else:
        assert len(own.before) == 6 and own.before.isfinite().all()


def test_calls_are_forced_of_one_tool_whichever_it_is_and_of_two_questions_or_more(composed, random_policy):
    data = instantiate(composed("experiment=a2tgpo", "data=calculator").data.module, _convert_="all")
    tasks = [data.tasks.split(Split.TRAIN)[n] for n in range(4)]
    assert force(data.rollout, random_policy, tasks).tasks == tasks
    assert force(data.rollout, random_policy, tasks[:1]) is None
    assert force(data.rollout, random_policy, [replace(task, reference_calls=()) for task in tasks]) is None


def test_calls_that_may_be_of_either_of_two_tools_are_not_forced(composed, random_policy):
    calculator = "{_target_:a2tgpo.environments.tools.calculator.calculate,_partial_:true}"
    config = composed("experiment=a2tgpo", f"+data.environment.tools.calculator={calculator}")
    data = instantiate(config.data.module, _convert_="all")
    tasks = [data.tasks.split(Split.TRAIN)[n] for n in range(4)]
    assert force(data.rollout, random_policy, tasks) is None
