"""Every trajectory weighs the same."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class SeqMeanTokenMean:
    """Mean over trajectories of the mean over a trajectory's action tokens (eq. 12)."""

    def __call__(self, turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Weight of each token in the sum over the whole mini-batch; rows without action tokens do not count."""
        tokens, rows = functional.count_tokens(turn_ids)
        return (turn_ids >= 0) / (rows * tokens)
