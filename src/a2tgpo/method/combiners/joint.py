"""The outcome is one more reward among those of the turns."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Joint:
    """The outcome is placed as the reward of the last turn, pooled and accumulated with the gains, as in IGPO.

    Where the last turn has a gain of its own, the outcome follows one step behind it. What `model/outcome` makes of the
    outcome is not heard.
    """

    @torch.no_grad()
    def place(
        self,
        gain: Float[Tensor, "B T"],
        gain_mask: Bool[Tensor, "B T"],
        outcome: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T+1"], Bool[Tensor, "B T+1"]]:
        """Gains and outcome: what is normalised together."""
        last = _last(turn_mask)
        column = last + gain_mask.gather(1, last).long()
        reward = torch.nn.functional.pad(gain, (0, 1)).scatter(1, column, outcome[:, None].to(gain.dtype))
        return reward, torch.nn.functional.pad(gain_mask, (0, 1)).scatter(1, column, True)

    @torch.no_grad()
    def combine(
        self,
        accumulated: Float[Tensor, "B C"],
        mask: Bool[Tensor, "B C"],
        outcome_hat: Float[Tensor, " B"],
        turn_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Advantage of every turn: what it accumulated, or the outcome's part alone where it has no reward."""
        own, outcome_part = accumulated[:, :-1], accumulated.gather(1, _last(mask))
        return torch.where(turn_mask, torch.where(mask[:, :-1], own, outcome_part), 0.0)


def _last(mask: Bool[Tensor, "B C"]) -> Int[Tensor, "B 1"]:
    """Column of the last True of each row."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1, keepdim=True)
