"""Every token weighs the same."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenMean:
    """Mean over all action tokens of the mini-batch, as in DAPO."""

    def __call__(self, turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Weight of each token in the sum over the whole mini-batch; rows without action tokens do not count."""
        mask = turn_ids >= 0
        return mask / mask.sum().clamp(min=1)
