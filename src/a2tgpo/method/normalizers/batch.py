"""A reward is compared with all rewards of the rollout set."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Batch:
    """Standardised over all prompts and turns together."""

    compares_trajectories: ClassVar[bool] = False

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
        """Reward in standard deviations of the whole batch; 0 where the mask is False."""
        one_group = torch.zeros_like(mask, dtype=torch.long)
        return functional.standardise(reward, mask, one_group, self.resolution, noise)
