"""No turn signal: the outcome alone, as GRPO has it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class NoSignal:
    """No turn has a gain, and no answer is scored."""

    @property
    def max_aliases(self) -> int:
        """How many accepted answers must be scored."""
        return 0

    @torch.no_grad()
    def __call__(
        self,
        answer_logprob: Float[Tensor, "B T+1 A"],
        alias_mask: Bool[Tensor, "B A"],
        state_mask: Bool[Tensor, "B T+1"],
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T+1"], Bool[Tensor, "B T"]]:
        """Gain, belief and gain mask: all zero, all False."""
        belief = answer_logprob.new_zeros(state_mask.shape)
        return belief[:, 1:].clone(), belief, torch.zeros_like(state_mask[:, 1:])
