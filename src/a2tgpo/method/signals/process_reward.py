"""A process reward: a scorer says what turns are worth; no belief is scored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task, Trajectory


@dataclass(frozen=True)
class ProcessReward:
    """Gain of a process turn: what `scorer` says of it."""

    scorer: Callable[[Sequence[Trajectory]], Sequence[Sequence[float]]]
    """Of each trajectory, in order, one finite number a process turn."""

    def answers(self, task: Task) -> Sequence[str]:
        """None."""
        return ()

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """Scores where a tool result followed; no beliefs. Raises ValueError where the scorer says anything else."""
        scores = list(self.scorer(observed.trajectories))
        expected = [sum(turn.is_process for turn in trajectory.turns) for trajectory in observed.trajectories]
        if [len(own) for own in scores] != expected:
            raise ValueError("model.signal.scorer: expected one list of scores a trajectory, with one a process turn")
        if not all(math.isfinite(score) for own in scores for score in own):
            raise ValueError("model.signal.scorer: a score is no finite number; expected finite numbers")
        gain, mask = torch.zeros(observed.turn_mask.shape), observed.process_mask
        for row, own in enumerate(scores):
            gain[row, : len(own)] = torch.tensor(own, dtype=gain.dtype)
        return Gains(torch.where(mask, gain, 0.0), mask, torch.zeros(observed.state_mask.shape))
