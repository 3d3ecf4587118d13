"""No turn signal: the outcome alone, as GRPO has it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class NoSignal:
    """No turn has a gain, and no answer is scored."""

    def answers(self, task: Task) -> Sequence[str]:
        """None."""
        return ()

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """All zero, all False."""
        gain = torch.zeros(observed.turn_mask.shape, device=observed.turn_mask.device)
        return Gains(gain, torch.zeros_like(observed.turn_mask), torch.nn.functional.pad(gain, (1, 0)))
