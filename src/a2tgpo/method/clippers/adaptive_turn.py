"""Turns that taught much may move far, turns that taught little must stay."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class AdaptiveTurn:
    """Clip range scaled per turn by its normalised gain: [1 − c·ε_low, 1 + c·ε_high] (eq. 11)."""

    beta: float
    """Strength: the scale c stays inside (1 − β, 1 + β)."""
    eps_low: float
    """How far below 1 the ratio may go; inf leaves it open."""
    eps_high: float
    """How far above 1 the ratio may go; inf leaves it open."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.clipper")

    @torch.no_grad()
    def __call__(self, normalized_gain: Float[Tensor, "B T"]) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Distances (low, high) of the bounds from 1, per turn."""
        scale = functional.clip_scale(normalized_gain, self.beta)
        return scale * self.eps_low, scale * self.eps_high
