"""Turn credit plus outcome credit."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Additive:
    """Âₜ = α · Dₜ/√nₜ + R̂: the outcome stays out of the gains' groups and joins at the end (eq. 9)."""

    alpha: float
    """Weight of the turn credit; the paper has none (1), its released code 0.3."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.combiner")

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
        """Advantage of every turn: R̂ alone where nothing was accumulated, 0 where there is no turn."""
        return torch.where(turn_mask, self.alpha * accumulated + outcome_hat[:, None], 0.0)
