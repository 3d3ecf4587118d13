"""How likely the answers are at the end of a trajectory from which a turn was taken out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Task, Trajectory, Turn
from a2tgpo.scoring.batch import RolloutBatch, collate
from a2tgpo.scoring.beliefs import BeliefPlan, plan_beliefs

DELETED = "[DELETE]"
"""Stands where the action and its result stood."""


def _as_prompt(trajectory: Trajectory, ids: tuple[int, ...]) -> Trajectory:
    return replace(trajectory, prompt_ids=ids, turns=(Turn((), ()),))


def without_each_turn(trajectory: Trajectory, deleted: tuple[int, ...]) -> Iterator[Trajectory]:
    """All up to the last tool result as one prompt, once for each process turn, which `deleted` replaces there."""
    pieces = [(*turn.action_ids, *turn.observation_ids) for turn in trajectory.turns if turn.is_process]
    for t in range(len(pieces)):
        kept = [*pieces[:t], deleted, *pieces[t + 1 :]]
        yield _as_prompt(trajectory, trajectory.prompt_ids + tuple(i for piece in kept for i in piece))


def plan_without_turns(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    answers: Callable[[Task], Sequence[str]],
    answer_wrapper: tuple[str, str],
) -> tuple[RolloutBatch, BeliefPlan]:
    """A row for each process turn of each trajectory, in order; its state 0 lacks the turn.

    Where there is no process turn a prompt stands alone, for the same number of forward passes on every rank.
    """
    deleted = tuple(policy.tokenizer(DELETED, add_special_tokens=False).input_ids)
    rows = [row for trajectory in trajectories for row in without_each_turn(trajectory, deleted)]
    rows = rows or [_as_prompt(trajectories[0], trajectories[0].prompt_ids)]
    batch = collate(rows, policy.pad_id)
    return batch, plan_beliefs(rows, batch.context_ids, policy.tokenizer, answer_wrapper, answers)


def place(
    trajectories: Sequence[Trajectory], plan: BeliefPlan, logprobs: Float[Tensor, " N"]
) -> Float[Tensor, "B T A"]:
    """The answers' log-probs by the turn that was taken out; 0 where there is none."""
    found, _, _ = plan.scatter(logprobs)
    result = found.new_zeros(len(trajectories), max(len(t.turns) for t in trajectories), found.shape[-1])
    places = [(b, t) for b, trajectory in enumerate(trajectories) for t in range(len(trajectory.context_lengths) - 1)]
    for (b, t), answers in zip(places, found[:, 0], strict=False):
        result[b, t] = answers
    return result
