"""From what states are worth to what turns are worth. Axes: B trajectories, T turns."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.method.functional import discounted_sum


def next_value(
    value: Float[Tensor, "B T"], outcome: Float[Tensor, " B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Value of the next counted turn, behind the last one the outcome: Vₜ₊₁; 0 at turns that do not count."""
    result, ahead = torch.zeros_like(value), outcome
    for t in reversed(range(value.shape[1])):
        result[:, t] = torch.where(mask[:, t], ahead, 0.0)
        ahead = torch.where(mask[:, t], value[:, t], ahead)
    return result


def lambda_advantage(
    value: Float[Tensor, "B T"], outcome: Float[Tensor, " B"], mask: Bool[Tensor, "B T"], lam: float
) -> Float[Tensor, "B T"]:
    """Âₜ = Σ_{k≥t} λ^{k−t} δₖ, δₖ = Vₖ₊₁ − Vₖ over the counted turns, V behind the last one the outcome.

    GAE (arXiv 1506.02438) without a discount. λ = 1 is R − Vₜ; λ = 0 is δₜ, which adds up to R − V₀.
    """
    return discounted_sum(next_value(value, outcome, mask) - value, mask, lam)
