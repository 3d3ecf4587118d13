"""A turn is credited with what follows."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class Discounted:
    """Discounted sum of the rewards to come (eq. 7)."""

    gamma: float
    """Discount per turn of distance."""

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"model.accumulator.gamma={self.gamma}: expected 0 < gamma <= 1")

    @torch.no_grad()
    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Dₜ; 0 where the mask is False."""
        return functional.discounted_sum(reward, mask, self.gamma)
