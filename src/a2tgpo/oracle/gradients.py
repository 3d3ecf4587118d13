"""∇ log π of a turn's action: the direction in which its credit moves the policy."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.oracle.sketch import CountSketch
from a2tgpo.policies.policy import Policy, evaluation_mode
from a2tgpo.scoring.batch import RolloutBatch
from a2tgpo.scoring.score import token_stats


def turn_gradients(
    policy: Policy, batch: RolloutBatch, places: Sequence[tuple[int, int]]
) -> Iterator[tuple[Float[Tensor, "..."], ...]]:
    """For each (row, turn) of `places` the gradient of Σ log π(y_l | y_<l) over the turn's tokens, in evaluation mode,
    by the weights that are trained."""
    weights = trained_weights(policy)
    with evaluation_mode(policy.model):
        for row, turn in places:
            own = (batch.turn_ids[row] == turn).nonzero()[:, 0]
            end = int(own[-1]) + 1
            turn_ids = torch.full((1, end), -1).index_fill(1, own, 0)
            inputs = batch.input_ids[row : row + 1, :end]
            stats = token_stats(policy, inputs.to(policy.device), turn_ids.to(policy.device), with_entropy=False)
            yield torch.autograd.grad(stats.logprobs.sum(), weights)


def trained_weights(policy: Policy) -> list[torch.nn.Parameter]:
    """All but the frozen ones."""
    return [weight for weight in policy.model.parameters() if weight.requires_grad]


def sketched_gradients(
    policy: Policy, batch: RolloutBatch, places: Sequence[tuple[int, int]], width: int, seed: int
) -> Float[Tensor, "N D"]:
    """`turn_gradients`, sketched to `width` entries."""
    sketch = CountSketch.of(trained_weights(policy), width, seed)
    return torch.stack([sketch(gradients).cpu() for gradients in turn_gradients(policy, batch, places)])
