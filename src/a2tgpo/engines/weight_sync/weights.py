"""The policy's weights as a weight_sync needs them: whole, and with a mark that tells whether they changed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.tensor import DTensor

from a2tgpo.policies.policy import Policy, trained_names


@dataclass(frozen=True)
class Served:
    """Weights on a server."""

    model: str
    """The name that completions ask for."""
    version: str
    """What no other weights are called: the folder they are in, where there is one."""


def whole_weights(policy: Policy) -> dict[str, Tensor]:
    """The state dict with sharded weights gathered; of a policy with an adapter only what is trained.

    Gathering is a joint call: every rank must ask.
    """
    state = policy.model.state_dict()
    if isinstance(policy.model, PeftModel):
        state = {name: state[name] for name in sorted(trained_names(policy))}
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in state.items()}


def require_whole_model(policy: Policy, weight_sync: str) -> None:
    """Raises ValueError naming `weight_sync` where the policy is a model with an adapter."""
    if isinstance(policy.model, PeftModel):
        raise ValueError(
            f"data/engine/weight_sync={weight_sync}: expected a policy without an adapter; for one use weight_sync=lora"
        )


def description(weights: Mapping[str, Tensor]) -> dict[str, list]:
    """What vLLM must know before weights are transferred to it."""
    return {
        "names": list(weights),
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
    }


@torch.no_grad()
def weights_mark(policy: Policy) -> int:
    """A number that changes when any of this rank's weights does: a hash of their bits."""
    mark = 0
    for weight in policy.model.parameters():
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        mark = hash((mark, int(torch.hash_tensor(local).view(torch.int64))))
    return mark
