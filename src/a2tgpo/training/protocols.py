"""What the halves of training know of each other."""

from collections.abc import Sequence
from typing import Protocol

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.system.timing import PhaseTimer


class Learner(Protocol):
    """What the data module needs of the learner."""

    policy: Policy
    phases: PhaseTimer

    def require_context_length(self, tasks: Sequence[Task], longest: int) -> None:
        """Raises ValueError where a trajectory of `longest` tokens would leave no room to score an answer."""
        ...

    def prepare(self, trajectories: Sequence[Trajectory]) -> RolloutBatch:
        """Score trajectories and give credit to their turns; groups must be complete."""
        ...
