"""All weights through a folder that the server loads in place."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from torch import Tensor

from a2tgpo.engines.weight_sync.weights import Served, require_whole_model
from a2tgpo.policies.policy import Policy
from a2tgpo.system.http_client import HttpClient, Unavailable


@dataclass(frozen=True)
class ReloadSync:
    """Saves the whole model to a folder under `directory`, which the server can read, and has it loaded in place.

    vLLM must run with VLLM_SERVER_DEV_MODE=1 on an accelerator: on the CPU its kernels keep packed copies of the old
    weights, and it would sample from a mixture of both without a word.
    """

    directory: str
    keeps: ClassVar[bool] = True

    def save(self, policy: Policy, weights: dict[str, Tensor], base: str) -> Served:
        """Write the model. Raises ValueError where the policy is a model with an adapter."""
        require_whole_model(policy, "reload")
        served = Served(base, str(Path(self.directory).resolve() / f"weights-{uuid4().hex[:12]}"))
        policy.model.save_pretrained(served.version, state_dict=weights)
        return served

    def load(self, server: HttpClient, served: Served) -> None:
        """Have the weights loaded unless they are; the server keeps the folder's name as their version.

        Raises ValueError where the server computes on a CPU.
        """
        if server.get("/weight_info", "weight_version") == served.version:
            return
        if server.get("/server_info?config_format=json", "vllm_config", "device_config", "device") == "cpu":
            raise ValueError(
                f"data/engine/weight_sync=reload: the server at {server.url} computes on a CPU, where vLLM does not "
                "follow weights loaded in place; expected an accelerator, or data/engine/weight_sync=lora"
            )
        server.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": served.version}})
        if not server.post("/reset_prefix_cache", {}, "success"):
            raise Unavailable("/reset_prefix_cache: requests are under way")
        server.post("/update_weight_version", {"new_version": served.version})

    def drop(self, server: HttpClient, served: Served) -> None:
        """Remove the folder of weights that were replaced."""
        shutil.rmtree(served.version, ignore_errors=True)
