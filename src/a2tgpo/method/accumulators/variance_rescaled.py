"""A turn is credited with what follows, at a scale that does not grow with how much follows."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class VarianceRescaled:
    """Discounted sum of the rewards to come (eq. 7) over the square root of their number (eq. 8)."""

    gamma: float
    """Discount per turn of distance."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.accumulator")

    @torch.no_grad()
    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Dₜ / √nₜ; 0 where the mask is False."""
        return functional.sqrt_rescale(functional.discounted_sum(reward, mask, self.gamma), mask)
