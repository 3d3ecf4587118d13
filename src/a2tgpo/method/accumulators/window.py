"""A turn is credited with what follows soon."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class Window:
    """Discounted mean of the next K rewards: Σ_{j<K} γʲ rₜ₊ⱼ / Σ_{j<K} γʲ, both over the turns that count.

    TRACE (arXiv 2607.13988).
    """

    gamma: float
    """Discount per turn of distance."""
    length: int
    """K, the turn's own reward included."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.accumulator")

    @torch.no_grad()
    def __call__(self, reward: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The mean; 0 where the mask is False."""
        turn = torch.arange(reward.shape[1], device=reward.device)
        distance = turn - turn[:, None]
        near = (distance >= 0) & (distance < self.length)
        weight = torch.where(near, self.gamma ** distance.clamp(min=0).to(reward.dtype), 0.0) * mask[:, None, :]
        total = (weight * torch.where(mask, reward, 0.0)[:, None, :]).sum(-1)
        return torch.where(mask, total / weight.sum(-1), 0.0)
