"""Every trajectory weighs as much as it is long."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class SeqMeanTokenSum:
    """Mean over trajectories of the sum over a trajectory's action tokens."""

    def __call__(self, turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Weight of each token in the sum over the whole mini-batch; rows without action tokens do not count."""
        _, rows = functional.count_tokens(turn_ids)
        return (turn_ids >= 0) / rows
