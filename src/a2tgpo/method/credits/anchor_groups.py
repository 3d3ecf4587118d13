"""A turn is compared with all turns of the prompt that were taken in the same anchor state."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from a2tgpo.method import functional
from a2tgpo.method.protocols import Normalizer
from a2tgpo.method.turns import CreditInputs, CreditOutputs
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class AnchorGroups:
    """Âₜ = R̂ + ω · ẑₜ, as in GiGPO (arXiv 2505.10978): ẑ is the return γ^(T−t) · R of a turn, standardised over its
    anchor state, where repeated visits count as often as they were made. Gains are not heard."""

    outcome: Normalizer
    omega: float
    """Weight of the comparison inside a state."""
    gamma: float
    """Discount per turn that is still to come."""
    resolution: float
    """A state whose returns are no further apart has no spread and gives 0."""

    compares_trajectories: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_all(vars(self), "model.credit")

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Advantage of every turn; no normalised gain."""
        mask, column = inputs.turn_mask, inputs.outcome[:, None]
        outcome_hat = self.outcome(column, torch.ones_like(column, dtype=torch.bool), inputs.group_ids)
        to_come = mask.flip(1).cumsum(1).flip(1) - 1
        returns = column * self.gamma ** to_come.clamp(min=0).to(column.dtype)
        in_state = functional.standardise(returns, mask, inputs.state_ids, self.resolution)
        return CreditOutputs(
            normalized_gain=torch.zeros_like(inputs.gain),
            advantage=torch.where(mask, outcome_hat + self.omega * in_state, 0.0),
            turn_credit=self.omega * in_state,
        )
