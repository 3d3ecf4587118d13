"""Every turn may move equally far."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Fixed:
    """One clip range for all: [1 − ε_low, 1 + ε_high]."""

    eps_low: float
    """How far below 1 the ratio may go; inf leaves it open."""
    eps_high: float
    """How far above 1 the ratio may go; inf leaves it open."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.clipper")

    @torch.no_grad()
    def __call__(self, normalized_gain: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Distances (low, high) of the bounds from 1, per turn."""
        return torch.full_like(normalized_gain, self.eps_low), torch.full_like(normalized_gain, self.eps_high)
