"""Values, advantages and what credits are shown, from written forks; the file; forks of a real policy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from a2tgpo.oracle.forked import JUDGING, SHOWN, Forked, distinct_states, distinct_turns
from a2tgpo.oracle.forking import Forking
from a2tgpo.oracle.store import read_forks, write_forks
from a2tgpo.rollouts.trajectory import Call, CallResult, Split
from a2tgpo.scoring.score import score
from tests.helpers.build import build_trajectory
from tests.helpers.tiny_runs import SHIPPED

SEARCH, OTHER, ANSWER, RESULT = (
    "<search> Varo</search>",
    "<search> Bemi</search>",
    "<answer> Varo</answer>",
    "<result> Varo.",
)


def written(policy):
    """Two episodes of a prompt that begin alike, one of another; outcomes 1, 0 and −1."""
    trajectories = [
        build_trajectory(policy, [SEARCH, ANSWER], [RESULT], 0, 0, 1.0),
        build_trajectory(policy, [SEARCH, OTHER, ANSWER], [RESULT, RESULT], 0, 1, 0.0),
        build_trajectory(policy, [ANSWER], [], 1, 0, -1.0, prompt="Question: Who is Bemi?", answers=("Bemi", "B")),
    ]
    forks = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, math.nan, 1], [-1, 1, -1, 1.0]])
    return Forked(
        trajectories,
        answer_logprob=-torch.arange(1.0, 25).view(3, 4, 2),
        alias_mask=torch.tensor([[True, False], [True, False], [True, True]]),
        state_mask=torch.tensor([[True, True, False, False], [True, True, True, False], [True, False, False, False]]),
        log_gain_noise=0.5,
        fork_outcome=forks,
        gradient=torch.eye(6)[:5],
        gradient_kept=0.9,
    )


def test_equal_contexts_are_one_state_and_equal_turns_one_turn(random_policy):
    batch = written(random_policy).batch
    states, first_states = distinct_states(batch)
    assert states.tolist() == [[0, 1, -1], [0, 1, 2], [3, -1, -1]]
    assert first_states == [(0, 0), (0, 1), (1, 2), (2, 0)]
    turns, first_turns = distinct_turns(batch)
    assert turns.tolist() == [[0, 1, -1], [0, 2, 3], [4, -1, -1]]
    assert first_turns == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0)]


def test_values_are_means_of_half_the_forks_and_the_end_is_exact(random_policy):
    forked = written(random_policy)
    shown, judging = forked.value(SHOWN), forked.value(JUDGING)
    assert shown.tolist() == [[1, 0.5, 1, 1], [1, 0.5, 0, 0], [-1, -1, -1, -1]]
    assert judging.tolist() == [[0, 0.5, 1, 1], [0, 0.5, 1, 0], [1, -1, -1, -1]]


def test_advantages_and_their_errors_are_those_of_paired_forks(random_policy):
    forked = written(random_policy)
    advantage, error = forked.advantage(JUDGING), forked.advantage_error(JUDGING)
    assert advantage.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, -1], [-2, 0, 0]]
    # Paired: 1−0, 0−0 → ½ ± ½; 1−1, 1−0 → ½ ± ½; what is certain before and after has no error.
    assert error.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]]


def test_a_failed_fork_is_left_out(random_policy):
    forked = written(random_policy)
    assert forked.outcomes[1, 2].isnan().tolist() == [False, False, True, False]
    assert forked.value(slice(None))[1, 2] == pytest.approx(2 / 3)
    assert forked.value_error(slice(None))[1, 2] == pytest.approx(1 / 3)  # of 0, 1, 1: √(2/3 / 2 / 3)


def test_a_signal_sees_the_answers_it_asks_for_and_the_shown_values(random_policy):
    forked = written(random_policy)
    seen = forked.observed([0, 2], lambda task: task.answers[::-1])
    assert seen.answer_logprob.shape == (2, 3, 2) and seen.log_gain_noise == 0.5
    assert seen.answer_logprob[0, :, 0].tolist() == [-1, -3, -5]
    assert seen.answer_logprob[1].tolist() == [[-18, -17], [-20, -19], [-22, -21]]
    assert seen.alias_mask.tolist() == [[True, False], [True, True]]
    assert seen.state_mask.tolist() == [[True, True, False], [True, False, False]]
    assert seen.value.tolist() == [[1, 0.5, 1], [-1, -1, 0]]
    assert not forked.observed([0], lambda task: ()).state_mask.any()
    with pytest.raises(ValueError, match=r"model\.signal: task task-0: the belief in 'x' is not among the forks"):
        forked.observed([0], lambda task: ("x",))


def same(a, b):
    for name in ("answer_logprob", "alias_mask", "state_mask", "fork_outcome", "gradient"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True)
    assert (a.log_gain_noise, a.gradient_kept) == (b.log_gain_noise, b.gradient_kept)


def test_a_file_gives_back_what_was_written(random_policy, tmp_path):
    forked = written(random_policy)
    turn = replace(forked.trajectories[0].turns[0], useful=True, calls=(Call("search", CallResult.FOUND),), state="s")
    first = replace(forked.trajectories[0], turns=(turn, *forked.trajectories[0].turns[1:]), metrics={"em": 1.0})
    forked = replace(forked, trajectories=[first, *forked.trajectories[1:]])
    write_forks(tmp_path / "a.npz", forked)
    read = read_forks(tmp_path / "a.npz")
    assert list(read.trajectories) == list(forked.trajectories)
    same(read, forked)
    write_forks(tmp_path / "b.npz", read)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", "arrays"])
def test_what_is_no_file_of_forks_is_refused_by_name(tmp_path, content):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(2)) if content == "arrays" else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz: .*expected forks written by src/credit\.py"):
        read_forks(path)


@pytest.fixture
def parts(composed):
    """Data module, policy, wrapper and two tasks of the embedded run."""
    config = composed("experiment=a2tgpo", f"paths.policy_dir={SHIPPED}")
    data, policy = (instantiate(part, _convert_="all") for part in (config.data.module, config.model.policy))
    tasks = data.tasks.split(Split.TRAIN)
    return data.rollout, policy, [tasks[4], tasks[7]], tuple(config.model.module.answer_wrapper)


def test_forks_of_a_policy(parts):
    rollout, policy, tasks, wrapper = parts
    forking = Forking(rollout, samples=3, continuations=4, budget=math.inf, seed=0)
    forked = forking.run(policy, tasks, wrapper, 4096)
    again = forking.run(policy, tasks, wrapper, 4096)
    assert forked.trajectories == again.trajectories
    same(forked, again)
    states, first = distinct_states(forked.batch)
    assert forked.fork_outcome.shape == (len(first), 4) and len(first) == int(states.max()) + 1
    assert forked.gradient.shape[0] == len(distinct_turns(forked.batch)[1]) and forked.gradient_kept > 0.999
    seen = forked.observed(range(len(forked.trajectories)), lambda task: task.answers[:1])
    scored = score(policy, forked.trajectories, lambda task: task.answers[:1], wrapper, 4096).observed
    for name in ("answer_logprob", "alias_mask", "state_mask", "outcome", "state_ids"):
        torch.testing.assert_close(getattr(seen, name), getattr(scored, name), rtol=0, atol=1e-4)


def test_no_round_is_begun_that_does_not_fit_into_the_budget(parts):
    rollout, policy, tasks, _ = parts
    (trajectory,) = rollout.run(policy, [(0, tasks[0])], 1, (3,), greedy=False)
    spent = [Forking(rollout, 1, 8, budget, 0).forks(policy, [(trajectory, 0)], (0, 1)) for budget in (1e-9, math.inf)]
    assert [outcomes.shape[1] for outcomes in spent] == [2, 8]
    assert torch.equal(spent[0], spent[1][:, :2])
