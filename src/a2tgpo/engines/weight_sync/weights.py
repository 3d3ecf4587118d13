"""The policy's weights as a weight_sync needs them: whole, and with a mark that tells whether they changed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from a2tgpo.policies.policy import Policy, trained_names
from a2tgpo.policies.sharding import is_sharded, local, whole
from a2tgpo.system.distributed import rank_and_world_size


@dataclass(frozen=True)
class Served:
    """Weights on a server."""

    model: str
    """The name that completions ask for."""
    version: str
    """What no other weights are called: the folder they are in, where there is one."""


def whole_weights(policy: Policy) -> dict[str, Tensor]:
    """The state dict; of a policy with an adapter only what is trained.

    Sharded weights are gathered one at a time and collected in the main memory of the first rank; the others get none.
    That is a joint call: every rank must ask.
    """
    state = policy.model.state_dict()
    if isinstance(policy.model, PeftModel):
        state = {name: state[name] for name in sorted(trained_names(policy))}
    if not is_sharded(policy.model):
        return state
    keeps = rank_and_world_size()[0] == 0
    gathered = ((name, whole(weight)) for name, weight in state.items())
    return {name: weight.cpu() for name, weight in gathered if keeps}


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
        mark = hash((mark, int(torch.hash_tensor(local(weight)).view(torch.int64))))
    return mark
