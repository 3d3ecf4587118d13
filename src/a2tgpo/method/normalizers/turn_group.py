"""A turn is compared with the same turn of the same prompt's other trajectories."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class TurnGroup:
    """Standardised inside the turn group: gains at one turn index of one prompt (eq. 6)."""

    compares_trajectories: ClassVar[bool] = True

    resolution: float | str
    """A group whose max − min is at most this has no spread and is all 0; `auto`: what rounding can do to it."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.normalizer")

    @torch.no_grad()
    def __call__(
        self,
        reward: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        group_ids: Int[Tensor, " B"],
        noise: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Reward in standard deviations of its turn group; 0 where the mask is False."""
        labels = functional.turn_groups(group_ids, reward.shape[1])
        return functional.standardise(reward, mask, labels, self.resolution, noise)
