"""Only what the first turn is worth, as MT-GRPO has it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from a2tgpo.method.protocols import Signal
from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class FirstTurn:
    """The gains of `signal`, of which the first turn's count."""

    signal: Signal

    def answers(self, task: Task) -> Sequence[str]:
        """What `signal` asks for."""
        return self.signal.answers(task)

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """Gains without those of later turns."""
        gains = self.signal(observed)
        first = gains.gain_mask & (torch.arange(gains.gain_mask.shape[1], device=gains.gain_mask.device) == 0)
        return replace(gains, gain=torch.where(first, gains.gain, 0.0), gain_mask=first)
