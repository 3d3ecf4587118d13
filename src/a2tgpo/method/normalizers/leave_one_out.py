"""A reward is compared with those of the prompt's other trajectories."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class LeaveOneOut:
    """Less the mean of all other rewards of the prompt, which the own one has no part in, as in RLOO
    (arXiv 2402.14740)."""

    compares_trajectories: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(
        self,
        reward: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        group_ids: Int[Tensor, " B"],
        noise: Float[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Reward less the mean of the others; 0 where there are none, and where the mask is False."""
        return functional.leave_one_out(reward, mask, group_ids[:, None].expand_as(mask))[0]
