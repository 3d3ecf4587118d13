"""A reward that compares the trajectories of a prompt: success, less something for being longer than their mean."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from a2tgpo.rollouts.trajectory import Trajectory


@dataclass(frozen=True)
class LengthPenalty:
    """R = success − penalty · (turns − mean turns of the prompt)."""

    penalty: float

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """One outcome a trajectory."""
        turns: dict[int, list[int]] = defaultdict(list)
        for trajectory in trajectories:
            turns[trajectory.group].append(len(trajectory.turns))
        mean = {group: sum(counts) / len(counts) for group, counts in turns.items()}
        return [t.metrics["success"] - self.penalty * (len(t.turns) - mean[t.group]) for t in trajectories]
