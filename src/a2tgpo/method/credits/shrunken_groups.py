"""Actions of an anchor state are compared by their mean outcomes, as far as the visits bear it out."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.method.protocols import Normalizer
from a2tgpo.method.turns import CreditInputs, CreditOutputs
from a2tgpo.system.settings import require_all

RESOLUTION = 1e-6
"""Shrunken means within this of each other are equal."""


@dataclass(frozen=True)
class ShrunkenGroups:
    """Â = R̂ + ω ρ z: empirical Bayes over the actions of a state (ECPO, arXiv 2606.05885).

    An action with n_u visits of mean outcome Ḡ_u is worth μ̃_u = (n_u Ḡ_u + κ μ_s)/(n_u + κ), μ_s the mean of the
    state's n visits; z is μ̃ standardised over the visits, and the gate ρ = tanh(n/τ) · B/(B + W), with the variances
    between and within actions. With fewer than `min_visits` visits the turn group takes the state's place, and where
    that is as small the prompt.
    """

    compares_trajectories: ClassVar[bool] = True

    outcome: Normalizer
    omega: float
    """Weight of the actions' credit."""
    kappa: float
    """Visits that the state's mean counts for."""
    tau: float
    """Visits from which on a state is trusted."""
    min_visits: int

    def __post_init__(self) -> None:
        require_all(vars(self), "model.credit")

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Advantage of every turn, and what the comparison of actions adds to the outcome's."""
        mask, column = inputs.turn_mask, inputs.outcome[:, None]
        outcome_hat = self.outcome(column, torch.ones_like(column, dtype=torch.bool), inputs.group_ids)
        prompts = inputs.group_ids[:, None].expand(mask.shape)
        credit = self._compared(inputs, prompts)
        for labels in (functional.turn_groups(inputs.group_ids, mask.shape[1]), inputs.state_ids):
            often = functional.group_size(mask, labels) >= self.min_visits
            credit = torch.where(often, self._compared(inputs, labels), credit)
        turn_credit = self.omega * credit
        advantage = torch.where(mask, outcome_hat + turn_credit, 0.0)
        return CreditOutputs(torch.zeros_like(advantage), advantage, turn_credit)

    def _compared(self, inputs: CreditInputs, labels: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """ρ z of every turn among those that share its label."""
        mask = inputs.turn_mask
        actions = functional.pair(labels, inputs.action_ids)
        outcome = inputs.outcome[:, None].expand(mask.shape)
        mean, action_mean = (functional.group_mean(outcome, mask, group) for group in (labels, actions))
        n_visits, n_action = (functional.group_size(mask, group).to(mean.dtype) for group in (labels, actions))
        shrunken = (n_action * action_mean + self.kappa * mean) / (n_action + self.kappa).clamp(min=1)
        between = functional.group_mean((action_mean - mean).square(), mask, labels)
        within = functional.group_mean((outcome - action_mean).square(), mask, labels)
        total = between + within
        gate = (n_visits / self.tau).tanh() * torch.where(total > 0, between / total, 0.0)
        return gate * functional.standardise(shrunken, mask, labels, RESOLUTION)
