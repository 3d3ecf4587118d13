"""What each turn taught the policy about the answer."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from a2tgpo.method import functional

MAX_ALIASES = 8


@dataclass(frozen=True)
class InformationGain:
    """Change of the belief in the accepted answer over a turn (eqs. 2, 3)."""

    gain: str = "prob"
    """`prob`: difference of probabilities, as the paper writes it; `log_prob`: of log-probabilities, in nats."""
    baseline: str = "query"
    """What the first turn is compared with: `query`, the prompt alone; `first_turn`: nothing, it has no gain."""
    aliases: str = "first"
    """Which accepted answers count: the `first`, the likeliest (`max`), or their `mean` probability."""

    def __post_init__(self) -> None:
        if self.gain not in ("prob", "log_prob"):
            raise ValueError(f"model.signal.gain={self.gain}: expected prob or log_prob")
        if self.baseline not in ("query", "first_turn"):
            raise ValueError(f"model.signal.baseline={self.baseline}: expected query or first_turn")
        if self.aliases not in ("first", "max", "mean"):
            raise ValueError(f"model.signal.aliases={self.aliases}: expected first, max or mean")

    @property
    def max_aliases(self) -> int:
        """How many accepted answers must be scored."""
        return 1 if self.aliases == "first" else MAX_ALIASES

    @torch.no_grad()
    def __call__(
        self,
        answer_logprob: Float[Tensor, "B T+1 A"],
        alias_mask: Bool[Tensor, "B A"],
        state_mask: Bool[Tensor, "B T+1"],
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T+1"], Bool[Tensor, "B T"]]:
        """Gain, belief (a probability) and gain mask. Raises ValueError where a state's belief is not finite."""
        log_belief = functional.log_belief(answer_logprob, alias_mask, self.aliases)
        if not log_belief[state_mask].isfinite().all():
            raise ValueError("no finite belief in an accepted answer: the task has none, it is empty, or scoring broke")
        belief = log_belief.exp()
        gain_mask = state_mask[:, 1:] & state_mask[:, :-1]
        if self.baseline == "first_turn":
            gain_mask[:, :1] = False
        gain = functional.information_gain(belief if self.gain == "prob" else log_belief, gain_mask)
        return gain, torch.where(state_mask, belief, 0.0), gain_mask
