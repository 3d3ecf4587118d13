"""The paper's credit as one composition of stages."""

from dataclasses import dataclass

import torch

from a2tgpo.method.protocols import Accumulator, Combiner, Normalizer
from a2tgpo.method.turns import CreditInputs, CreditOutputs


@dataclass(frozen=True)
class StagedCredit:
    """Credit in stages: place → normalizer (eq. 6) → accumulator (eqs. 7, 8) → combine (eq. 9).

    A turn with no gain to come, the terminal turn for one, has the outcome's advantage alone: Â = R̂. So has a process
    turn without a gain of its own (the first turn under `baseline: first_turn`), even before turns that have one. An
    accumulator speaks only about turns that count: n counts gains, and D starts at one.
    """

    outcome: Normalizer
    normalizer: Normalizer
    accumulator: Accumulator
    combiner: Combiner

    @property
    def compares_trajectories(self) -> bool:
        """Does any stage compare the trajectories of a prompt?"""
        return self.outcome.compares_trajectories or self.normalizer.compares_trajectories

    @torch.no_grad()
    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Normalised gain îg and advantage Â. A combiner may place more rewards than there are turns; the first T
        columns stay the turns."""
        gain, mask = self.combiner.place(inputs.gain, inputs.gain_mask, inputs.outcome, inputs.turn_mask)
        noise = torch.nn.functional.pad(inputs.gain_noise, (0, gain.shape[1] - inputs.gain.shape[1]))
        normalized = self.normalizer(gain, mask, inputs.group_ids, noise)
        accumulated = self.accumulator(normalized, mask)
        column = inputs.outcome[:, None]
        outcome_hat = self.outcome(column, torch.ones_like(column, dtype=torch.bool), inputs.group_ids)[:, 0]
        advantage = self.combiner.combine(accumulated, mask, outcome_hat, inputs.turn_mask)
        nothing = torch.zeros_like(accumulated)
        outcome_only = self.combiner.combine(nothing, mask, outcome_hat, inputs.turn_mask)
        n_turns = inputs.gain.shape[1]
        return CreditOutputs(
            normalized_gain=torch.where(inputs.gain_mask, normalized[:, :n_turns], 0.0),
            advantage=advantage,
            turn_credit=advantage - outcome_only,
        )
