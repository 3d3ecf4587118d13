"""The outcome reward: how an episode ended, and how good its answer is."""

from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import StopReason, Trajectory
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class OutcomeReward:
    """The metric `outcome` of an episode that answered, `malformed` where an action was, `unanswered` for every other
    end."""

    outcome: str
    """The name of a metric of the environment, such as em or f1."""
    malformed: float
    unanswered: float

    def __post_init__(self) -> None:
        require_all(vars(self), "data.reward")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """One outcome a trajectory, in order. Raises ValueError where one that answered has no metric `outcome`."""
        return [self._outcome(trajectory) for trajectory in trajectories]

    def _outcome(self, trajectory: Trajectory) -> float:
        if trajectory.stop is StopReason.INVALID_ACTION:
            return self.malformed
        if trajectory.stop is not StopReason.ANSWERED:
            return self.unanswered
        if self.outcome not in trajectory.metrics:
            raise ValueError(
                f"data.reward.outcome={self.outcome}: expected a metric of the environment, "
                f"one of {', '.join(sorted(trajectory.metrics))}"
            )
        return trajectory.metrics[self.outcome]
