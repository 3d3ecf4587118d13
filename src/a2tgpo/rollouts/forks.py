"""What the states of an episode are worth: V(state) = mean outcome of continuations (forks) sampled behind it."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.trajectory import Trajectory


def with_values(
    rollout: Rollout, policy: Policy, trajectories: Sequence[Trajectory], k: int, key: tuple[int, ...]
) -> list[Trajectory]:
    """`trajectories` with the value of each state, from `k` forks of every distinct one; the end is worth the outcome.

    `key` keys the sampling noise. Raises ValueError where all forks of a state failed, and what `continue_from` does.
    """
    prefixes = [(trajectory, n) for trajectory in trajectories for n in range(len(trajectory.turns))]
    forks = iter(rollout.continue_from(policy, prefixes, k, key))
    return [replace(t, values=(*(_value(t, next(forks)) for _ in t.turns), t.outcome)) for t in trajectories]


def _value(trajectory: Trajectory, forks: Sequence[Trajectory]) -> float:
    if not forks:
        raise ValueError(
            f"data.module.continuations: all forks of a state of task {trajectory.task.task_id} failed; expected one "
            "that did not"
        )
    return mean(fork.outcome for fork in forks)
