"""Weights in shards (FSDP2): a process holds its part of each, and the whole of a layer while that layer computes."""

from collections import Counter

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from a2tgpo.system.distributed import max_over_ranks


def shard(model: nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype | None) -> None:
    """Shard each decoder layer of `model`, then what is left, over the second axis of `mesh`; the first has copies.

    Layers are gathered in `compute_dtype`, or as they are. So are embedding and head: logits are made in float32.
    Nothing happens to a model that is sharded. Raises ValueError where its layers are not known, or share weights.
    """
    if is_sharded(model):
        return
    over = mesh if mesh.size(0) > 1 else mesh[mesh.mesh_dim_names[1]]
    policy = MixedPrecisionPolicy(compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in _decoder_layers(model):
        fully_shard(layer, mesh=over, mp_policy=policy)
    fully_shard(model, mesh=over)


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    names, kind = base._no_split_modules or (), base.config.model_type
    named = [module for module in model.modules() if type(module).__name__ in names]
    if not named:
        raise ValueError(f"trainer=fsdp: a {kind} model does not name its decoder layers; expected trainer=ddp")
    inner = {module for layer in named for module in layer.modules() if module is not layer}
    layers = [layer for layer in named if layer not in inner]
    uses = Counter(weight for layer in layers for weight in layer.parameters())
    if max(uses.values()) > 1:
        raise ValueError(f"trainer=fsdp: decoder layers of a {kind} model share weights; expected trainer=ddp")
    return layers


def is_sharded(model: nn.Module) -> bool:
    """Does this process hold a part of the weights alone?"""
    return bool(_shards(model))


def gather(model: nn.Module) -> None:
    """Hold all weights whole, at the precision they compute in, until `scatter`: each process may then go forward as
    often as it likes. A joint call; nothing where `model` is not sharded."""
    shards = _shards(model)
    if shards:
        max_over_ranks(0)  # they may come hours apart, for which the mesh, unlike the world, has no patience
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def scatter(model: nn.Module) -> None:
    """Hold shards again."""
    for i, module in enumerate(_shards(model)):
        module.set_reshard_after_forward(i > 0, recurse=False)
        module.reshard()


def _shards(model: nn.Module) -> list[FSDPModule]:
    """The root first, whose weights the backward pass needs at once."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. A joint call where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A copy of this process's part of a whole tensor, where `other`, of the same shape, is sharded."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None).clone()
