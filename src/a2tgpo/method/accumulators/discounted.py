"""A turn is credited with what follows."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Discounted:
    """Discounted sum of the rewards to come (eq. 7)."""

    gamma: float
    """Discount per turn of distance."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.accumulator")

    @torch.no_grad()
    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Dₜ; 0 where the mask is False."""
        return functional.discounted_sum(reward, mask, self.gamma)
