"""Search or answer, twice: the smallest task on which a turn credit can push the wrong way, with its exact gradient.

At each of two decisions the policy searches with probability ½, or answers and ends the episode. A search gains .3 the
first time and .1 the second, with noise of .1; the outcome is always 0 and J is the expected sum of gains.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from a2tgpo.method.turns import CreditInputs
from tests.helpers.observed import credit_inputs

GAINS, NOISE, GROUP = (0.3, 0.1), 0.1, 16
EXACT = torch.tensor([0.0875, 0.0125], dtype=torch.float64)
"""dJ/dlogit of searching: p(1 − p)(.3 + p · .1) and p · p(1 − p) · .1."""

Stopping = Callable[[Tensor], Tensor]


def independent(first_gain: Tensor) -> Tensor:
    """Search again with probability ½ whatever the first search gained."""
    return torch.full_like(first_gain, 0.5)


def after_a_good_gain(first_gain: Tensor) -> Tensor:
    """Stop rather after a good search: search again with probability .8 below the mean gain, .2 above."""
    return torch.where(first_gain < GAINS[0], 0.8, 0.2)


@dataclass(frozen=True)
class Played:
    """Groups of 16 that played; `score[b, t]` is the derivative of the log-probability of decision t by its logit."""

    inputs: CreditInputs
    score: Tensor


def play(n_groups: int, again: Stopping, seed: int = 0) -> Played:
    """Episodes of `n_groups` prompts."""
    rng = torch.Generator().manual_seed(seed)
    n = n_groups * GROUP
    gain = torch.tensor(GAINS) + NOISE * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    probability = torch.stack([torch.full((n,), 0.5, dtype=torch.float64), again(gain[:, 0])], 1)
    search = torch.rand(n, 2, generator=rng, dtype=torch.float64) < probability
    turn_mask = torch.stack([torch.ones(n, dtype=torch.bool), search[:, 0]], 1)
    gain_mask = turn_mask & search
    groups = torch.arange(n_groups).repeat_interleave(GROUP)
    inputs = credit_inputs(torch.where(gain_mask, gain, 0.0), gain_mask, turn_mask, gain.new_zeros(n), groups)
    return Played(inputs, torch.where(turn_mask, search.double() - probability, 0.0))


def gradient(advantage: Tensor, played: Played) -> tuple[Tensor, Tensor]:
    """Âₜ ∇log π of each decision, per trajectory: mean over the groups, and its standard error."""
    each = (advantage * played.score).view(-1, GROUP, 2).mean(1)
    return each.mean(0), each.std(0) / len(each) ** 0.5
