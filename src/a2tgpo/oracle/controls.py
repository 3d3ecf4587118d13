"""What every credit is held beside: the outcome alone, the forks themselves, and noise."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from a2tgpo.method.accumulators.none import NoAccumulation
from a2tgpo.method.combiners.additive import Additive
from a2tgpo.method.credits.fork_value import ForkValue
from a2tgpo.method.credits.staged import StagedCredit
from a2tgpo.method.method import PAPER
from a2tgpo.method.normalizers.centre import Centre
from a2tgpo.method.normalizers.none import NoNormalization
from a2tgpo.method.normalizers.prompt_group import PromptGroup
from a2tgpo.method.protocols import Credit, Normalizer
from a2tgpo.method.signals.none import NoSignal
from a2tgpo.method.turns import CreditInputs, CreditOutputs


@dataclass(frozen=True)
class Noise:
    """Â ~ N(0, 1), the same in every batch of the same form."""

    compares_trajectories: ClassVar[bool] = False

    def __call__(self, inputs: CreditInputs) -> CreditOutputs:
        """Nothing of what is known of the turns."""
        drawn = torch.randn(inputs.turn_mask.shape, generator=torch.Generator().manual_seed(0))
        advantage = torch.where(inputs.turn_mask, drawn, 0.0)
        return CreditOutputs(torch.zeros_like(advantage), advantage, advantage)


def _broadcast(outcome: Normalizer) -> Credit:
    """The outcome's advantage to every turn."""
    return StagedCredit(outcome, NoNormalization(), NoAccumulation(), Additive(alpha=1.0))


RLOO = "RLOO"
"""The credit that others are compared with: R less the mean of the others, which is R less the mean of all but for a
factor."""
CONTROLS = {
    name: replace(PAPER, signal=NoSignal(), credit=credit)
    for name, credit in {
        RLOO: _broadcast(Centre()),
        "GRPO": _broadcast(PromptGroup(resolution=1e-6)),
        "random": Noise(),
        "half of the forks": ForkValue(),
    }.items()
}
