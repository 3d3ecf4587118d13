"""Noise: what a turn signal that knows nothing would say."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Noise:
    """Gain of a process turn: a standard normal draw, keyed by `seed`, task, group, sample and turn, and so independent
    of what was done."""

    seed: int

    def __post_init__(self) -> None:
        require_all(vars(self), "model.signal")

    def answers(self, task: Task) -> Sequence[str]:
        """None."""
        return ()

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """Draws where a tool result followed; no beliefs."""
        gain, mask = torch.zeros(observed.turn_mask.shape), observed.process_mask
        for row, trajectory in enumerate(observed.trajectories):
            gain[row, : len(trajectory.turns)] = self._draws(trajectory)
        return Gains(torch.where(mask, gain, 0.0), mask, torch.zeros(observed.state_mask.shape))

    def _draws(self, trajectory: Trajectory) -> Float[Tensor, " T"]:
        key = crc32(f"{self.seed} {trajectory.task.task_id} {trajectory.group} {trajectory.sample}".encode())
        return torch.randn(len(trajectory.turns), generator=torch.Generator().manual_seed(key))
