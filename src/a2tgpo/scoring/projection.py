"""The step from hidden states to the vocabulary, where a token is predicted and nowhere else, in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from a2tgpo.policies.policy import Policy


def predict(
    policy: Policy, row: Int[Tensor, " P"], column: Int[Tensor, " P"], *inputs: Tensor, **options: Any
) -> Float[Tensor, "P V"]:
    """Logits in fp32 of what follows position `column[p]` of row `row[p]`, from one forward over `inputs`.

    bf16 logits move in steps of 1/8 at the sizes that a vocabulary has, which is coarser than the ratios and gains that
    are read off them. The other positions are not projected: with a large vocabulary that step is what costs.
    """
    with _projecting(policy.model.get_output_embeddings(), row, column):
        return policy.model(*inputs, **options).logits[0]


@contextmanager
def _projecting(head: nn.Module, row: Tensor, column: Tensor) -> Iterator[None]:
    """Inside, `head` takes the hidden states [B, L, H] and gives the logits [1, P, V] of those picked."""
    pick = head.register_forward_pre_hook(lambda _, hidden: hidden[0][row, column][None])
    linear = getattr(head, "base_layer", head)  # under an adapter
    linear.forward = lambda hidden: _in_fp32(linear, hidden)
    try:
        yield
    finally:
        del linear.forward
        pick.remove()


def _in_fp32(linear: nn.Linear, hidden: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if linear.bias is None else linear.bias.float()
        return F.linear(hidden.float(), linear.weight.float(), bias)
