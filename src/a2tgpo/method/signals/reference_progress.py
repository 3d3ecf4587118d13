"""How much nearer a turn brought the accepted answer, as a frozen reference sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from a2tgpo.method.beliefs import accepted_answers, finite_log_belief
from a2tgpo.method.functional import information_gain
from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class ReferenceProgress:
    """δₜ = Vₜ − Vₜ₋₁, Vₜ = log(d₀/dₜ), dₜ = offset − log π_ref(a | q, τ≤t), a mean over the answer's tokens (eq. 2).

    TRACE (arXiv 2607.13988). The share of the distance that was covered counts, so the last steps to a likely answer
    are worth as much as the first towards an unlikely one. The reference does not move, so neither does what a turn is
    worth.
    """

    by_reference: ClassVar[Literal[True]] = True

    aliases: str
    """Which accepted answers count: the `first`, the likeliest (`max`), or their `mean` probability."""
    offset: float
    """Distance (nats) that a certain answer keeps."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.signal")

    def answers(self, task: Task) -> Sequence[str]:
        """The first accepted answer, or some. Raises ValueError where the task has none."""
        return accepted_answers(task, self.aliases)

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """Progress of each turn, its rounding error, and the reference's belief. Raises ValueError where one is not
        finite."""
        states = observed.state_mask
        log_belief = torch.where(states, finite_log_belief(observed, self.aliases), 0.0)
        distance = self.offset - log_belief
        gain_mask = states[:, 1:] & states[:, :-1] & observed.process_mask
        gain = information_gain(-distance.log(), gain_mask)
        noise = torch.where(gain_mask, observed.log_gain_noise / torch.minimum(distance[:, 1:], distance[:, :-1]), 0.0)
        return Gains(gain, gain_mask, torch.where(states, log_belief.exp(), 0.0), noise)
