"""A turn is worth what the trajectories that went through it earned."""

from dataclasses import dataclass

import torch

from a2tgpo.method import functional
from a2tgpo.method.protocols import Normalizer
from a2tgpo.method.turns import CreditInputs, CreditOutputs


@dataclass(frozen=True)
class NodeValue:
    """Âₜ = mean of R̂ over the trajectories that begin with the same turns up to t, token for token: the value of a node
    in the tree of a prompt, averaged over its leaves (Tree-GRPO, arXiv 2509.21240). Gains are not heard."""

    outcome: Normalizer

    @property
    def compares_trajectories(self) -> bool:
        """Does the outcome's part?"""
        return self.outcome.compares_trajectories

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Advantage of every turn; no normalised gain. `turn_credit` is what the other leaves changed."""
        column, passed = inputs.outcome[:, None], inputs.node_ids >= 0
        outcome_hat = self.outcome(column, torch.ones_like(column, dtype=torch.bool), inputs.group_ids)
        value = functional.group_mean(outcome_hat.expand(passed.shape), passed, inputs.node_ids)
        advantage = torch.where(inputs.turn_mask, value, 0.0)
        return CreditOutputs(
            normalized_gain=torch.zeros_like(inputs.gain),
            advantage=advantage,
            turn_credit=torch.where(inputs.turn_mask, value - outcome_hat, 0.0),
        )
