"""A reward stays what it is."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class NoNormalization:
    """No group: the raw reward."""

    compares_trajectories: ClassVar[bool] = False

    @torch.no_grad()
    def __call__(
        self,
        reward: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        group_ids: Int[Tensor, " B"],
        noise: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """The reward; 0 where the mask is False."""
        return torch.where(mask, reward, 0.0)
