"""One ratio a turn."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class TurnRatio:
    """Geometric mean of the ratios of a turn's tokens: sₜ(θ) (eq. 10)."""

    def __call__(
        self,
        logprobs: Float[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """log sₜ(θ) at every token of turn t, differentiated through the mean; 0 at other tokens."""
        return functional.turn_mean(logprobs - old_logprobs, turn_ids)
