"""Sharded weights under Lightning: the mesh of processes, and checkpoints that are those of one process."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map_only

from a2tgpo.policies.sharding import local, shard_like, whole
from a2tgpo.system.settings import require


class ShardedStrategy(ModelParallelStrategy):
    """Shards each of `replicas` copies of the weights over world size / `replicas` processes that stand side by side.

    A checkpoint is the file that one process would write, put together in the main memory of the first. Lightning's own
    full checkpoints are other ones: saving takes a step of the optimizer where there was none, and states of a model
    with frozen weights are numbered otherwise.
    """

    restore_checkpoint_after_setup = False  # the weights are sharded by then, and callbacks come before the fit begins
    lightning_restore_optimizer = True

    def __init__(self, replicas: int, timeout: timedelta) -> None:
        require("trainer.strategy.replicas", replicas)
        super().__init__(save_distributed_checkpoint=False, timeout=timeout)
        self.replicas = replicas

    def setup_environment(self) -> None:
        """Raises ValueError where the processes cannot be shared out among the replicas."""
        n_ranks = self.num_nodes * self.num_processes
        if n_ranks % self.replicas:
            raise ValueError(f"trainer.strategy.replicas={self.replicas}: expected a divisor of the {n_ranks} ranks")
        # the names of Lightning's axes are those of another use of them; ranks beside each other are along the second
        self._data_parallel_size, self._tensor_parallel_size = self.replicas, n_ranks // self.replicas
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """On the first rank the weights that are trained, whole and in main memory, gathered one at a time; on others
        none. A joint call."""
        gathered: dict[Tensor, Tensor] = {}  # tied weights once
        state = self.lightning_module.state_dict(keep_vars=True)
        state = {name: w for name, w in state.items() if w.requires_grad or not isinstance(w, Parameter)}
        for weight in state.values():
            if weight not in gathered:
                gathered[weight] = self._on_first_rank(weight)
        return {name: gathered[weight] for name, weight in state.items()} if self.is_global_zero else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The same of an optimizer's state, as torch has it."""
        optimizer = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = tree_map_only(Tensor, self._on_first_rank, optimizer.state_dict())
        return state if self.is_global_zero else {}

    def _on_first_rank(self, tensor: Tensor) -> Tensor:
        gathered = whole(_decoded(tensor.detach()))
        return gathered.cpu() if self.is_global_zero else gathered.new_empty(0)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint, which every rank maps."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's part of the weights."""
        own = self.lightning_module.state_dict()
        weights = {name: shard_like(weight, own[name]) for name, weight in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(weights, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's part of the optimizers' states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            parts = {i: _parts(moments, weights[i]) for i, moments in state["state"].items()}
            optimizer.load_state_dict(state | {"state": parts})


def _parts(moments: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    return {name: shard_like(x, weight) if isinstance(x, Tensor) else x for name, x in moments.items()}


def _decoded(tensor: Tensor) -> Tensor:
    """The numbers of a tensor of which this process keeps its part in few bits; any other as it is."""
    own = local(tensor)
    if own is tensor or not is_traceable_wrapper_subclass(own):
        return tensor
    layout = {"device_mesh": tensor.device_mesh, "placements": tensor.placements}
    return DTensor.from_local(own.dequantize(), **layout, run_check=False, shape=tensor.shape, stride=tensor.stride())
