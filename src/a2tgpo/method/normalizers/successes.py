"""A success counts 1, whatever the others earned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Successes:
    """1 where the reward is above `threshold`, 0 elsewhere: what rejection sampling keeps."""

    compares_trajectories: ClassVar[bool] = False

    threshold: float
    """What a failure earns at most."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.outcome")

    @torch.no_grad()
    def __call__(
        self,
        reward: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        group_ids: Int[Tensor, " B"],
        noise: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """1 or 0; 0 where the mask is False."""
        return (mask & (reward > self.threshold)).to(reward.dtype)
