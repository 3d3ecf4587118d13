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
        if [len(own) for own in scores] != observed.process_mask.sum(1).tolist():
            raise ValueError("model.signal.scorer: expected one list of scores a trajectory, with one a process turn")
        flat = [float(score) for own in scores for score in own]
        if not all(map(math.isfinite, flat)):
            raise ValueError("model.signal.scorer: a score is no finite number; expected finite numbers")
        gain = torch.zeros(observed.turn_mask.shape).masked_scatter(observed.process_mask, torch.tensor(flat))
        return Gains(gain, observed.process_mask, torch.zeros(observed.state_mask.shape))
