"""Every token weighs the same, whatever the batch holds."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method import functional
from a2tgpo.system.settings import require_all


@dataclass(frozen=True)
class TokenSumNorm:
    """Sum over action tokens over trajectories × a constant length, as in Dr. GRPO."""

    max_length: int
    """Tokens a trajectory can have at most."""

    def __post_init__(self) -> None:
        require_all(vars(self), "model.aggregation")

    def __call__(self, turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Weight of each token in the sum over the whole mini-batch; rows without action tokens do not count."""
        _, rows = functional.count_tokens(turn_ids)
        return (turn_ids >= 0) / (rows * self.max_length)
