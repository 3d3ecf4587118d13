"""A process reward: a callable says what each action and its result are worth; no belief is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task, Turn


def shorter_is_better(turn: Turn) -> float:
    """A scorer that likes short actions."""
    return -float(len(turn.action_ids))


@dataclass(frozen=True)
class ProcessReward:
    """Gain of a process turn: what `scorer` says of it."""

    scorer: Callable[[Turn], float]

    def answers(self, task: Task) -> Sequence[str]:
        """None."""
        return ()

    def __call__(self, observed: Observed) -> Gains:
        """Scores where a tool result followed, no beliefs."""
        gain = torch.zeros(observed.turn_mask.shape)
        for row, trajectory in enumerate(observed.trajectories):
            for t, turn in enumerate(trajectory.turns):
                gain[row, t] = self.scorer(turn) if turn.is_process else 0.0
        return Gains(gain, observed.process_mask, torch.zeros(observed.state_mask.shape))
