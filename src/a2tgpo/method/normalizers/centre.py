"""A reward is compared with its prompt's mean and keeps its scale."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class Centre:
    """Less the mean over every turn of every trajectory of the prompt, not divided by a spread, as in Dr. GRPO."""

    compares_trajectories: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(
        self,
        reward: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        group_ids: Int[Tensor, " B"],
        noise: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Reward less its prompt's mean; 0 where the mask is False."""
        return functional.centre(reward, mask, group_ids[:, None].expand_as(mask))
