"""A turn is charged with what it found done."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Past:
    """−Σ_{k<t} rₖ over the turns that count. Of gains it is what the belief had risen by before the turn: a baseline.

    It does not depend on what the turn does. With `Total` it adds up to D (eq. 7, γ = 1).
    """

    @torch.no_grad()
    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Minus the sum; 0 where the mask is False."""
        counted = torch.where(mask, reward, 0.0)
        return torch.where(mask, counted - counted.cumsum(1), 0.0)
