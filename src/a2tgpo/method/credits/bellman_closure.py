"""The trajectories of a prompt as a small decision process, solved: what an action is worth by where it leads."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.method.protocols import Normalizer
from a2tgpo.method.turns import CreditInputs, CreditOutputs
from a2tgpo.method.values import next_value
from a2tgpo.system.settings import require_all

RESOLUTION = 1e-12
"""Share of the largest outcome: values that move by no more have arrived."""


@dataclass(frozen=True)
class BellmanClosure:
    """Â = w_G R̂ + w_S A_S on the empirical decision process of anchor states (CRBC, arXiv 2609.35082).

    V(s) = β · mean over the visits of s of what came next: the next state's V, or the outcome after the last turn,
    which is V = (I − βM)⁻¹ βb. Q(s, a) is that mean over the visits that did a, and A_S = (Q − V)/max(σ, σ_min) with
    σ² the mean of (Q − V)² over the visits; 0 where all did the same. Trajectories that meet in a state so share what
    followed. With `depth` 0 nothing is followed: Q and V are means of the visits' outcomes, as in GiGPO.
    """

    compares_trajectories: ClassVar[bool] = True

    outcome: Normalizer
    outcome_weight: float
    """w_G."""
    state_weight: float
    """w_S."""
    beta: float
    """Discount per turn."""
    min_std: float
    """σ_min: differences of Q below are not blown up."""
    depth: int | str
    """How many turns ahead values are followed before outcomes are averaged; `all`: to the end."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.credit")

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Advantage of every turn, and what the states add to the outcome's."""
        mask, column = inputs.turn_mask, inputs.outcome[:, None]
        outcome_hat = self.outcome(column, torch.ones_like(column, dtype=torch.bool), inputs.group_ids)
        followed = self._followed(inputs)
        value = functional.group_mean(followed, mask, inputs.state_ids)
        actions = functional.pair(inputs.state_ids, inputs.action_ids)
        difference = functional.group_mean(followed, mask, actions) - value
        std = functional.group_mean(difference.square(), mask, inputs.state_ids).sqrt()
        turn_credit = self.state_weight * (difference / std.clamp(min=self.min_std)).to(column.dtype)
        advantage = torch.where(mask, self.outcome_weight * outcome_hat + turn_credit, 0.0)
        return CreditOutputs(torch.zeros_like(advantage), advantage, turn_credit)

    def _followed(self, inputs: CreditInputs) -> Float[Tensor, "B T"]:
        """What came after each turn, in float64: β · V of the next state, β · R after the last; R itself at depth 0."""
        mask, outcome = inputs.turn_mask, inputs.outcome.double()
        followed = outcome[:, None].expand(mask.shape)
        steps, moved, least = 0, torch.inf, RESOLUTION * float(outcome.abs().max())
        while steps != self.depth and moved > least:
            value = functional.group_mean(followed, mask, inputs.state_ids)
            following = self.beta * next_value(value, outcome, mask)
            moved = float((following - followed)[mask].abs().max())
            steps, followed = steps + 1, following
        return followed
