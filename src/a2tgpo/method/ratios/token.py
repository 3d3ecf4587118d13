"""One ratio a token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenRatio:
    """Each token's own ratio, as in PPO and GRPO."""

    def __call__(
        self,
        logprobs: Float[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """log πθ − log π_old at every action token; 0 at other tokens."""
        return torch.where(turn_ids >= 0, logprobs - old_logprobs, 0.0)
