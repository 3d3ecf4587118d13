"""Noise: what a turn signal that knows nothing would say."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch

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
        counts = observed.process_mask.sum(1).tolist()
        draws = [self._draws(t, count) for t, count in zip(observed.trajectories, counts, strict=True)]
        gain = torch.zeros(observed.turn_mask.shape).masked_scatter(observed.process_mask, torch.cat(draws))
        return Gains(gain, observed.process_mask, torch.zeros(observed.state_mask.shape))

    def _draws(self, trajectory: Trajectory, count: int) -> torch.Tensor:
        key = crc32(f"{self.seed} {trajectory.task.task_id} {trajectory.group} {trajectory.sample}".encode())
        return torch.randn(count, generator=torch.Generator().manual_seed(key))
