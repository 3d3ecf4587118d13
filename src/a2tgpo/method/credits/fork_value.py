"""Credit from forks of the outcome: what a turn changed in the mean outcome of what is sampled behind it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from a2tgpo.method.turns import CreditInputs, CreditOutputs


@dataclass(frozen=True)
class ForkValue:
    """Â = V(after the turn and its result) − V(before it), V the mean outcome of the forks of a state.

    VinePPO's (arXiv 2410.01679) with a turn for a step. The end of an episode is worth its outcome, so Σ_t Â_t = R −
    V(prompt). No turn has a normalised gain.
    """

    compares_trajectories: ClassVar[bool] = False
    asks_forks: ClassVar[Literal[True]] = True

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Differences of values. Raises ValueError where no forks were played."""
        if inputs.value is None:
            raise ValueError(
                "model/credit=fork_value: expected trajectories with values, which forks of their states tell"
            )
        advantage = torch.where(inputs.turn_mask, inputs.value.diff(dim=1), 0.0)
        return CreditOutputs(torch.zeros_like(advantage), advantage, advantage)
