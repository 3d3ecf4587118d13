"""The belief as a baseline, not as a reward: the credit is the outcome's alone, better told apart."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.method.ridge import leave_one_group_out_ridge, moments
from a2tgpo.method.turns import CreditInputs, CreditOutputs
from a2tgpo.method.values import lambda_advantage
from a2tgpo.system.settings import require_all

MIN_BELIEF = 1e-6
"""A belief below is as good as none, and its logarithm would outweigh all others."""
MOMENTS = "belief_baseline/moments"
"""Under which name earlier rollout sets are remembered."""


@dataclass(frozen=True)
class BeliefBaseline:
    """Âₜ = Σ_{k≥t} λ^{k−t} δₖ, δₖ = V̂ₖ₊₁ − V̂ₖ, with the outcome behind the last V̂ (GAE, arXiv 1506.02438).

    V̂ₜ is the outcome that a ridge regression over all other prompts expects where turn t is taken: from the mean
    outcome m of the prompt's other trajectories, the turn's index, what the policy believes there and what the dialogue
    shows. It uses the state and other trajectories, so with λ = 1 the policy gradient keeps its expectation. A smaller
    λ trusts V̂ for what follows. Earlier rollout sets are regressed on too, with a weight of memoryᵏ after k sets: the
    policy has moved since, but a few prompts are not enough to learn from.
    """

    compares_trajectories: ClassVar[bool] = True

    belief: bool
    """Does V̂ know the belief? Without, no accepted answer is needed."""
    dialogue: bool
    """Does V̂ know the pieces seen, the distinct and the repeated calls, and what the last result brought?"""
    penalty: float
    """Of the regression, on columns in standard deviations."""
    lam: float
    """λ: 1 trusts outcomes alone, 0 the next V̂ alone."""
    memory: float
    """Share of their weight that earlier rollout sets keep at each further one; 0: every set is on its own."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.credit")

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Advantage of every turn, and what of it is not R − m; a trajectory without others has none."""
        outcome = inputs.outcome[:, None]
        everyone = torch.ones_like(outcome, dtype=torch.bool)
        by_outcome, has_others = functional.leave_one_out(outcome, everyone, inputs.group_ids[:, None])
        mask = inputs.turn_mask & has_others
        value = self._values(inputs, mask, outcome - by_outcome)
        advantage = lambda_advantage(value, inputs.outcome, mask, self.lam)
        return CreditOutputs(torch.zeros_like(advantage), advantage, torch.where(mask, advantage - by_outcome, 0.0))

    def _values(
        self, inputs: CreditInputs, mask: Bool[Tensor, "B T"], others: Float[Tensor, "B 1"]
    ) -> Float[Tensor, "B T"]:
        """V̂ before each turn that counts: `others`, the mean outcome m, where one prompt is all that there ever was."""
        value = others.expand(mask.shape)
        group_ids = inputs.group_ids[:, None].expand(mask.shape)[mask]
        columns = [column.expand(mask.shape)[mask] for column in self._features(inputs, others)]
        features, outcome = torch.stack(columns, 1), inputs.outcome[:, None].expand(mask.shape)[mask]
        earlier = None
        if self.memory and inputs.memory is not None:
            earlier = inputs.memory.get(MOMENTS)
            now = moments(features, outcome, torch.zeros_like(group_ids), 1)[0]
            inputs.memory[MOMENTS] = self.memory * (now if earlier is None else now + earlier)
        if earlier is None and len(group_ids.unique()) < 2:
            return value
        predicted = leave_one_group_out_ridge(features, outcome, group_ids, self.penalty, earlier)
        return value.masked_scatter(mask, predicted)

    def _features(self, inputs: CreditInputs, others: Float[Tensor, "B 1"]) -> list[Tensor]:
        """Columns [B, T], [B, 1] or [1, T]."""
        turn = torch.arange(inputs.turn_mask.shape[1], dtype=others.dtype, device=others.device)[None]
        columns = [others, turn, others * turn]
        if self.belief:
            belief = inputs.belief[:, :-1]
            columns += [belief, belief.clamp(min=MIN_BELIEF).log(), others * belief]
        if self.dialogue:
            columns += [column.to(others.dtype) for column in _shown(inputs)]
        return columns


def _shown(inputs: CreditInputs) -> list[Int[Tensor, "B T"]]:
    """Before each turn: pieces seen, those that were new in the last result, distinct and repeated actions."""
    new = torch.where(inputs.turn_mask, inputs.n_new_pieces, 0)
    same = (inputs.action_ids[:, :, None] == inputs.action_ids[:, None, :]) & inputs.turn_mask[:, None, :]
    repeated = inputs.turn_mask & same.tril(-1).any(-1)
    distinct = inputs.turn_mask & ~repeated
    last = torch.nn.functional.pad(new, (1, 0))[:, :-1]
    return [_before(new), last, _before(distinct.long()), _before(repeated.long())]


def _before(count: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    return count.cumsum(1) - count
