"""No correction."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class NoCorrection:
    """Every action token counts as sampled by the trainer's own policy."""

    def __call__(
        self,
        old_logprobs: Float[Tensor, "B L"],
        rollout_logprobs: Float[Tensor, "B L"],
        turn_ids: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """1 for action tokens, 0 elsewhere."""
        return (turn_ids >= 0).to(old_logprobs.dtype)
