"""Turn credit without the outcome."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class GainsAlone:
    """Âₜ = Dₜ: what the outcome was is not heard, and a turn without a gain has no credit."""

    @torch.no_grad()
    def place(
        self,
        gain: Float[Tensor, "B T"],
        gain_mask: Bool[Tensor, "B T"],
        outcome: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """What is normalised: the gains alone."""
        return gain, gain_mask

    @torch.no_grad()
    def combine(
        self,
        accumulated: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        outcome_hat: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Advantage of every turn: what it accumulated."""
        return torch.where(turn_mask, accumulated, 0.0)
