"""A turn's return is compared with what the others of the prompt got from the same depth on."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.method.turns import CreditInputs, CreditOutputs
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class TurnLeaveOneOut:
    """Âₜ = Gₜ − mean of Gₜ over the others that have a turn t of any kind, Gₜ = Σ_{k≥t} γ^{k−t} α igₖ + R.

    Those that answered at depth t are compared too, so the credit says whether to go on; and as nobody's return is part
    of its own baseline, with γ = 1 its expected gradient is that of E[Σ α igₜ + R].
    """

    compares_trajectories: ClassVar[bool] = True

    alpha: float
    """Weight of the gains beside the outcome."""
    gamma: float
    """Discount of later gains, per turn."""
    lone: str
    """With what a turn is compared that no other trajectory of the prompt reached: `outcome`, the others' mean outcome;
    `raw`, nothing."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.credit")

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Advantage of every turn, and the part of it that the gains made; a trajectory without others has none."""
        gain = torch.where(inputs.gain_mask, self.alpha * inputs.gain, 0.0)
        to_come = functional.discounted_sum(gain, inputs.turn_mask, self.gamma)
        advantage, by_outcome = self._compared(to_come, inputs), self._compared(torch.zeros_like(to_come), inputs)
        return CreditOutputs(torch.zeros_like(to_come), advantage, advantage - by_outcome)

    def _compared(self, to_come: Float[Tensor, "B T"], inputs: CreditInputs) -> Float[Tensor, "B T"]:
        mask, outcome = inputs.turn_mask, inputs.outcome[:, None]
        labels = functional.turn_groups(inputs.group_ids, mask.shape[1])
        advantage, reached = functional.leave_one_out(to_come + outcome, mask, labels)
        alone = to_come + outcome
        if self.lone == "outcome":
            everyone = torch.ones_like(outcome, dtype=torch.bool)
            by_outcome, has_others = functional.leave_one_out(outcome, everyone, inputs.group_ids[:, None])
            alone = torch.where(has_others, to_come + by_outcome, 0.0)
        return torch.where(mask & ~reached, alone, advantage)
