"""All weights through NCCL, from the trainer's GPU to those of a server elsewhere."""

import base64
import threading
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import uuid4

import torch
from torch import Tensor
from torch.cuda import nccl

from a2tgpo.engines.weight_sync.weights import Served, description, require_whole_model, whole_weights
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.sharding import is_sharded
from a2tgpo.system.http_client import HttpClient, Unavailable


def init_info(unique_id: bytes, n_workers: int) -> dict[str, Any]:
    """What vLLM's workers need to join the trainer, which is rank 0 of the group."""
    return {
        "nccl_unique_id_b64": base64.b64encode(unique_id).decode(),
        "rank_offset": 1,
        "world_size": 1 + n_workers,
        "packed": False,
    }


class NcclSync:
    """Broadcasts every weight in turn to all workers of the server.

    vLLM must run with `--weight-transfer-config '{"backend": "nccl"}'` and VLLM_SERVER_DEV_MODE=1, on other GPUs than
    the trainer's. A server that was started again is joined again.
    """

    keeps: ClassVar[bool] = False

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._gathered: dict[str, Tensor] | None = None
        """Of a sharded policy all weights, in main memory: one rank alone cannot gather them again."""
        self._link: Any = None
        self._sent: str | None = None

    def save(self, policy: Policy, weights: dict[str, Tensor], base: str) -> Served:
        """Remember the policy: its weights are read when they are sent, since the trainer may move them until then. Of
        a sharded one remember `weights`.

        Raises ValueError where NCCL cannot send them.
        """
        require_whole_model(policy, "nccl")
        if policy.device.type != "cuda":
            raise ValueError(f"data/engine/weight_sync=nccl: the policy is on {policy.device}; expected a GPU")
        self._policy, self._gathered = policy, weights if is_sharded(policy.model) else None
        return Served(base, f"nccl-{uuid4().hex[:12]}")

    def load(self, server: HttpClient, served: Served) -> None:
        """Send the weights unless the server has them. Only the rank that saved them can."""
        version = server.get("/weight_info", "weight_version")
        if version == served.version:
            return
        if self._policy is None:
            raise Unavailable("/weight_info: the first rank has yet to send the weights")
        if version != self._sent:
            self._connect(server)
        self._sent = None  # whatever fails from here on, the next try joins anew
        server.post("/start_weight_update", {})
        weights = self._gathered or whole_weights(self._policy)

        def broadcast(device: torch.device) -> None:
            for weight in weights.values():
                nccl.broadcast([weight.detach().to(device).contiguous()], root=0, comms=[self._link])

        self._meet(broadcast, server, "/update_weights", {"update_info": description(weights)})
        server.post("/finish_weight_update", {})
        if not server.post("/reset_prefix_cache", {}, "success"):
            raise Unavailable("/reset_prefix_cache: requests are under way")
        server.post("/update_weight_version", {"new_version": served.version})
        self._sent = served.version

    def drop(self, server: HttpClient, served: Served) -> None:
        """Nothing is kept."""

    def _connect(self, server: HttpClient) -> None:
        info = init_info(nccl.unique_id(), server.get("/get_world_size", "world_size"))

        def join(device: torch.device) -> None:
            self._link = nccl.init_rank(info["world_size"], base64.b64decode(info["nccl_unique_id_b64"]), 0)
            nccl.all_reduce([torch.zeros(1, device=device)], comms=[self._link])  # vLLM's workers do one when they join

        self._meet(join, server, "/init_weight_transfer_engine", {"init_info": info})

    def _meet(self, ours: Callable[[torch.device], None], server: HttpClient, path: str, body: dict[str, Any]) -> None:
        """Our part and the server's at once: they wait for each other inside NCCL.

        Ours runs in a thread and on a stream that nobody has to wait for, so that a server that fails cannot hold up
        the trainer.
        """
        device, failures = self._policy.device, []
        torch.cuda.synchronize(device)  # the weights are complete

        def run() -> None:
            try:
                torch.cuda.set_device(device)
                stream = torch.cuda.Stream(device)
                with torch.cuda.stream(stream):
                    ours(device)
                stream.synchronize()
            except RuntimeError as error:
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        server.post(path, body)
        thread.join(server.timeout)
        if failures or thread.is_alive():
            raise Unavailable(f"{path}: NCCL {failures[0] if failures else 'does not come to an end'}")
