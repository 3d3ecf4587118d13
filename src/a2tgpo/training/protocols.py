"""What the two halves of training know of each other: the data module and the learner."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.system.timing import PhaseTimer


class Learner(Protocol):
    """What the data module needs of the learner."""

    policy: Policy
    phases: PhaseTimer
    metrics: dict[str, float]
    """Numbers about the rollout set that was prepared last."""

    def require_context_length(self, tasks: Iterable[Task], max_sequence_tokens: int) -> None:
        """Raises ValueError where a trajectory of `max_sequence_tokens` leaves no context length to score an answer."""
        ...

    def prepare(
        self, trajectories: Sequence[Trajectory], mini_batches: Sequence[Sequence[int]], n_failed: int
    ) -> RolloutBatch:
        """Score trajectories, whose rows `mini_batches` trains together, and assign credit to their turns.

        Groups are complete but for `n_failed` lost episodes.
        """
        ...


class RolloutSource(Protocol):
    """What the learner needs of the data module."""

    group_size: int
    """Trajectories of a prompt."""
    continuations: int
    """Forks of every state."""
    steps_per_iteration: int
    """Optimizer steps over one rollout set."""
