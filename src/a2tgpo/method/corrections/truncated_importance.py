"""Truncated importance sampling between the engine that sampled and the trainer that learns."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class TruncatedImportance:
    """w = min(π_old / π_rollout, cap) per action token, without gradient.

    The trainer's ratio starts from its own π_old. Where the rollout came from other weights or other kernels, w makes
    the expectation over rollouts one over π_old again; the cap bounds the variance for some bias.
    """

    cap: float
    """The most that a token may count, at least 1."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.correction")

    @torch.no_grad()
    def __call__(
        self,
        old_logprobs: Float[Tensor, "B L"],
        rollout_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Factor of each action token's weight in the loss, 0 elsewhere."""
        mask = turn_ids >= 0
        log_ratio = (old_logprobs - rollout_logprobs).masked_fill(~mask, -torch.inf)
        return log_ratio.clamp(max=math.log(self.cap)).exp()
