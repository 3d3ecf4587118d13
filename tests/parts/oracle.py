"""The truth as a signal: did the call bring evidence that was not seen before?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task


@dataclass(frozen=True)
class Oracle:
    """Gain 1 of a useful turn, 0 of another; none where nobody knows."""

    def answers(self, task: Task) -> Sequence[str]:
        """None."""
        return ()

    def __call__(self, observed: Observed) -> Gains:
        """What `turn.useful` says."""
        n_turns = observed.turn_mask.shape[1]
        useful = [[turn.useful for turn in t.turns] + [None] * (n_turns - len(t.turns)) for t in observed.trajectories]
        known = torch.tensor([[value is not None for value in row] for row in useful])
        gain = torch.tensor([[float(value or 0) for value in row] for row in useful])
        return Gains(gain, known & observed.process_mask, torch.zeros(observed.state_mask.shape))
