"""Reference calls against foreign ones, by wrapper and answer length."""

import math

import pytest
import torch
from hydra.utils import instantiate

from a2tgpo.check.beliefs import WrapperBeliefs, beliefs, force, score_wrappers, wrappers
from a2tgpo.check.findings import Verdict
from a2tgpo.rollouts.trajectory import Split

THOUGHT = ("<think> done</think>\n<answer> ", " </answer>")


def test_wrappers_without_blanks_and_without_a_thought():
    assert wrappers(THOUGHT) == [
        THOUGHT,
        ("<think> done</think>\n<answer>", "</answer>"),
        ("<answer> ", " </answer>"),
        ("<answer>", "</answer>"),
    ]
    assert wrappers(("<answer>", "</answer>")) == [("<answer>", "</answer>")]


def made(wrapper, before, own, foreign, lengths):
    logs = [torch.tensor([math.log(p) for p in values]) for values in (before, own, foreign)]
    return WrapperBeliefs(wrapper, *logs, lengths)


SHIPPED = made(THOUGHT, [1e-6, 1e-6, 0.1, 0.1], [2e-6, 1e-6, 0.5, 0.2], [4e-6, 2e-6, 0.2, 0.1], [1, 1, 3, 4])


def test_figures_by_the_length_of_the_answer():
    table = SHIPPED.by_length()
    assert list(table) == ["1 token", "2 or 3", "4 and more", "all"]
    assert [row["questions"] for row in table.values()] == [2, 1, 1, 4]
    assert [row["ranked"] for row in table.values()] == [0.0, 1.0, 1.0, 0.5]
    assert table["1 token"]["log_gain_own"] == pytest.approx(math.log(2) / 2, abs=1e-6)
    assert table["2 or 3"]["gain_own"] == pytest.approx(0.4, abs=1e-6)
    assert table["2 or 3"]["belief_before"] == pytest.approx(0.1, abs=1e-6)


def test_chance_a_better_wrapper_and_small_beliefs_are_found():
    other = made(("<answer>", "</answer>"), [0.1] * 4, [0.2] * 4, [0.15] * 4, [1] * 4)
    ranking, wrapper, size = beliefs([SHIPPED, other], "prob", 1e-4)
    assert ranking.verdict is Verdict.BAD and "0% of 2 questions (1 token)" in ranking.says
    assert wrapper.mend == "data.dialect.answer_wrapper=['<answer>', '</answer>']"
    assert size.mend == "model.signal.gain=log_prob" and size.says.startswith("50% of the gains")
    (alone,) = beliefs([other], "prob", 1e-4)
    assert alone.verdict is Verdict.GOOD
    assert len([*beliefs([SHIPPED], "log_prob", 0.1)]) == 1


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
    own, *_ = score_wrappers(policy, pairs, tuple(config.data.dialect.answer_wrapper), 4096)
    assert own.wrapper == tuple(config.data.dialect.answer_wrapper)
    if trained:
        assert own.ranked == 1.0
    else:
        assert len(own.before) == 6 and own.before.isfinite().all()


def test_questions_without_reference_calls_are_not_forced(composed, random_policy):
    data = instantiate(composed("experiment=a2tgpo", "data=calculator").data.module, _convert_="all")
    tasks = [data.tasks.split(Split.TRAIN)[n] for n in range(4)]
    known = force(data.rollout, random_policy, tasks)
    assert (known is None) == (not tasks[0].reference_calls)
