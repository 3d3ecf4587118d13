"""One ratio a trajectory."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class SequenceRatio:
    """Geometric mean of the ratios of all action tokens, as in GSPO."""

    def __call__(
        self,
        logprobs: Float[Tensor, "B L"],
        old_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Mean log-ratio of the row at every action token, differentiated through the mean; 0 at other tokens."""
        return functional.sequence_mean(logprobs - old_logprobs, turn_ids)
