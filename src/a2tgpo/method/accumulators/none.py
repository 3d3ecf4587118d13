"""A turn is credited with its own reward only."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class NoAccumulation:
    """No turn hears of a later one."""

    @torch.no_grad()
    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The reward; 0 where the mask is False."""
        return torch.where(mask, reward, 0.0)
