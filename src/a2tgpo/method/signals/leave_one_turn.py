"""What a turn is worth to all the others: what the belief loses at the end without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from a2tgpo.method.beliefs import accepted_answers, finite_log_belief
from a2tgpo.method.functional import log_belief
from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class LeaveOneTurn:
    """gₜ = Φ(all results) − Φ(all but turn t and its result) (LOTAPO, arXiv 2607.13501), Φ a probability.

    The gain over a turn depends on the order: of two results that say the same the first has all of it, of two that are
    needed together the last. Here the former have nothing, the latter both have all.
    """

    without_turns: ClassVar[Literal[True]] = True

    aliases: str
    """Which accepted answers count: the `first`, the likeliest (`max`), or their `mean` probability."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.signal")

    def answers(self, task: Task) -> Sequence[str]:
        """The first accepted answer, or some. Raises ValueError where the task has none."""
        return accepted_answers(task, self.aliases)

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """Loss of each turn, its rounding error, and the beliefs as the trajectory went on.

        Raises ValueError where nobody scored the trajectories without their turns, or a belief is not finite.
        """
        if observed.answer_logprob_without is None:
            raise ValueError("model/signal=leave_one_turn: the answers were not scored without each turn; see `score`")
        states = observed.state_mask
        belief = torch.where(states, finite_log_belief(observed, self.aliases).exp(), 0.0)
        last = belief.gather(1, states.sum(1, keepdim=True) - 1)
        without = log_belief(observed.answer_logprob_without, observed.alias_mask, self.aliases).exp()
        gain_mask = states[:, 1:] & observed.process_mask
        gain = torch.where(gain_mask, last - without, 0.0)
        noise = torch.where(gain_mask, observed.log_gain_noise * torch.maximum(last, without), 0.0)
        return Gains(gain, gain_mask, belief, noise)
