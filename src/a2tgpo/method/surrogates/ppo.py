"""The clipped surrogate of PPO."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from a2tgpo.method import functional


@dataclass(frozen=True)
class PPO:
    """The more pessimistic of the free and the bounded ratio (eq. 12)."""

    def __call__(
        self,
        log_ratio: Float[Tensor, "B L"],
        logprobs: Float[Tensor, "B L"],
        advantage: Float[Tensor, "B L"],
        low: Float[Tensor, "B L"],
        high: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Loss of each token; the gradient flows through `log_ratio` alone."""
        return functional.clipped_surrogate(log_ratio, advantage, low, high)
