"""GiGPO-like credit: a turn's return is compared with those of all turns that were taken in the same anchor state."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from a2tgpo.method.functional import centre
from a2tgpo.method.turns import CreditInputs, CreditOutputs


@dataclass(frozen=True)
class AnchorStates:
    """Â = (R − mean of the prompt) + ω · (γ^(T−t) R − mean of the anchor state)."""

    omega: float
    gamma: float
    compares_trajectories: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Credit from outcomes and states alone."""
        mask, column = inputs.turn_mask, inputs.outcome[:, None]
        episode = centre(column, torch.ones_like(column, dtype=torch.bool), inputs.group_ids[:, None])
        to_come = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1])
        step = centre(column * self.gamma ** to_come.clamp(min=0), mask, inputs.state_ids)
        turn_credit = torch.where(mask, self.omega * step, 0.0)
        advantage = torch.where(mask, episode + turn_credit, 0.0)
        return CreditOutputs(torch.zeros_like(inputs.gain), advantage, turn_credit)
