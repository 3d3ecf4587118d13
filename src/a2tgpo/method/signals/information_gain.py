"""What each turn taught the policy about the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from a2tgpo.method import functional
from a2tgpo.method.beliefs import accepted_answers, finite_log_belief
from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class InformationGain:
    """Change (eq. 3) of the belief in the accepted answer (eq. 2) over a turn."""

    gain: str
    """`prob`: difference of probabilities, as the paper writes it; `log_prob`: of log-probabilities, in nats."""
    baseline: str
    """What the first turn is compared with: `query`, the prompt alone; `first_turn`: nothing, it has no gain."""
    aliases: str
    """Which accepted answers count: the `first`, the likeliest (`max`), or their `mean` probability."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.signal")

    def answers(self, task: Task) -> Sequence[str]:
        """The first accepted answer, or some. Raises ValueError where the task has none."""
        return accepted_answers(task, self.aliases)

    @torch.no_grad()
    def __call__(self, observed: Observed) -> Gains:
        """Gain, its rounding error, and belief (a probability). Raises ValueError where a belief is not finite."""
        states = observed.state_mask
        log_belief = finite_log_belief(observed, self.aliases)
        belief = log_belief.exp()
        gain_mask = states[:, 1:] & states[:, :-1] & observed.process_mask
        if self.baseline == "first_turn":
            gain_mask[:, :1] = False
        gain = functional.information_gain(belief if self.gain == "prob" else log_belief, gain_mask)
        noise = torch.full_like(gain, observed.log_gain_noise)
        if self.gain == "prob":
            noise *= torch.maximum(belief[:, 1:], belief[:, :-1])
        return Gains(gain, gain_mask, torch.where(states, belief, 0.0), torch.where(gain_mask, noise, 0.0))
