"""The weighted likelihood of what was sampled."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """−Â · log πθ: imitation where Â is 1, REINFORCE elsewhere. Ratio and bounds have no part in it."""

    def __call__(
        self,
        log_ratio: Float[Tensor, "B L"],
        logprobs: Float[Tensor, "B L"],
        advantage: Float[Tensor, "B L"],
        low: Float[Tensor, "B L"],
        high: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Loss of each token; 0 where Â is."""
        return torch.where(advantage == 0, 0.0, -advantage * logprobs)
