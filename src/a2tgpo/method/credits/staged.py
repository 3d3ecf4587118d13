"""From gains and outcomes to the advantage of every turn: the method's credit as one composition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.method.normalizers.centre import Centre
from a2tgpo.method.normalizers.prompt_group import PromptGroup
from a2tgpo.method.normalizers.turn_group import TurnGroup

if TYPE_CHECKING:
    from a2tgpo.method.protocols import Accumulator, Combiner, Credit, Normalizer


@dataclass(frozen=True)
class StagedCredit:
    """Credit in stages: place → normalizer → accumulator → combine (eqs. 6–9).

    A turn with no gain to come, the terminal turn for one, has the outcome's advantage alone: Â = R̂. So has a process
    turn without a gain of its own (a hole: the first turn under `baseline: first_turn`), even before turns that have
    one. An accumulator speaks only about turns that count: n counts gains, and D starts at one.
    """

    outcome: Normalizer
    normalizer: Normalizer
    accumulator: Accumulator
    combiner: Combiner

    @torch.no_grad()
    def __call__(
        self,
        gain: Float[Tensor, "B T"],
        belief: Float[Tensor, "B T+1"],
        gain_mask: Bool[Tensor, "B T"],
        turn_mask: Bool[Tensor, "B T"],
        outcome: Float[Tensor, " B"],
        group_ids: Int[Tensor, " B"],
        state_ids: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Normalised gain îg (0 where a turn has none) and advantage Â (0 where there is no turn).

        `belief` and `state_ids` are for methods that group by themselves. A combiner may place more rewards than there
        are turns; the first T columns stay the turns.
        """
        reward, mask = self.combiner.place(gain, gain_mask, outcome, turn_mask)
        normalized = self.normalizer(reward, mask, group_ids)
        accumulated = self.accumulator(normalized, mask)
        column = outcome[:, None]
        outcome_hat = self.outcome(column, torch.ones_like(column, dtype=torch.bool), group_ids)[:, 0]
        advantage = self.combiner.combine(accumulated, outcome_hat, turn_mask)
        return torch.where(gain_mask, normalized[:, : gain.shape[1]], 0.0), advantage


def compares_within_groups(credit: Credit) -> bool:
    """Does this credit compare trajectories of one prompt, so that a group of one would teach nothing?"""
    stages = (credit.outcome, credit.normalizer) if isinstance(credit, StagedCredit) else ()
    return any(isinstance(stage, (TurnGroup, PromptGroup, Centre)) for stage in stages)
