"""All weights through CUDA IPC, where trainer and server share one GPU: the server copies from the trainer's memory."""

import base64
import pickle
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from a2tgpo.engines.weight_sync.weights import Served, description, require_whole_model, whole_weights
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.sharding import is_sharded
from a2tgpo.system.distributed import rank_and_world_size
from a2tgpo.system.http_client import HttpClient, Unavailable


def update_info(weights: Mapping[str, Tensor], gpu: str) -> dict[str, Any]:
    """What vLLM's `ipc` backend must know: names, types, shapes, and where each weight lies on the GPU named `gpu`.

    The weights must stay where they are until the update is finished.
    """
    handles = [{gpu: reduce_tensor(weight.detach())[1]} for weight in weights.values()]
    return description(weights) | {"ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}


class IpcSync:
    """Offers the weights in the trainer's memory to a server on the same GPU.

    vLLM must run with `--weight-transfer-config '{"backend": "ipc"}'`, VLLM_SERVER_DEV_MODE=1 and
    VLLM_ALLOW_INSECURE_SERIALIZATION=1. One trainer process and one worker of the server.
    """

    keeps: ClassVar[bool] = False

    def __init__(self) -> None:
        self._policy: Policy | None = None

    def save(self, policy: Policy, weights: dict[str, Tensor], base: str) -> Served:
        """Remember the policy: its weights are read when the server asks, since the trainer may move them until then.

        Raises ValueError where they cannot be shared with the server.
        """
        require_whole_model(policy, "ipc")
        _, n_ranks = rank_and_world_size()
        if policy.device.type != "cuda" or n_ranks > 1 or is_sharded(policy.model):
            raise ValueError(
                f"data/engine/weight_sync=ipc: the policy is on {policy.device} in {n_ranks} processes; expected one "
                "process without trainer=fsdp, on the GPU of the server"
            )
        self._policy = policy
        return Served(base, f"ipc-{uuid4().hex[:12]}")

    def load(self, server: HttpClient, served: Served) -> None:
        """Have the server copy the weights unless it has them."""
        if server.get("/weight_info", "weight_version") == served.version:
            return
        device = self._policy.device
        weights = {name: weight.detach().contiguous() for name, weight in whole_weights(self._policy).items()}
        torch.cuda.synchronize(device)
        info = update_info(weights, str(torch.cuda.get_device_properties(device).uuid))
        server.post("/init_weight_transfer_engine", {"init_info": {"packed": False}})
        server.post("/start_weight_update", {})
        server.post("/update_weights", {"update_info": info})
        server.post("/finish_weight_update", {})
        if not server.post("/reset_prefix_cache", {}, "success"):
            raise Unavailable("/reset_prefix_cache: requests are under way")
        server.post("/update_weight_version", {"new_version": served.version})

    def drop(self, server: HttpClient, served: Served) -> None:
        """Nothing is kept."""
