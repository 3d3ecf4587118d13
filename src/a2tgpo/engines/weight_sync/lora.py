"""Adapters under new names, loaded while the server runs."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from peft import PeftModel
from torch import Tensor

from a2tgpo.engines.weight_sync.weights import Served
from a2tgpo.policies.policy import Policy
from a2tgpo.system.http_client import HttpClient, Refused, Unavailable


@dataclass(frozen=True)
class LoraSync:
    """Saves the adapter to a folder of its own under `directory`, which the server can read, and has it loaded.

    Every version has a name of its own: requests under way keep theirs, and no cached prefix of one version is read by
    another. vLLM must run with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.
    """

    directory: str
    keeps: ClassVar[bool] = True

    def save(self, policy: Policy, weights: dict[str, Tensor], base: str) -> Served:
        """Write the adapter. Raises ValueError where the policy has none."""
        if not isinstance(policy.model, PeftModel):
            raise ValueError(
                "data/engine/weight_sync=lora: expected a policy with an adapter, such as "
                "model/policy=pretrained_lora; for one without use weight_sync=reload, ipc or nccl"
            )
        name = f"adapter-{uuid4().hex[:12]}"
        served = Served(name, str(Path(self.directory).resolve() / name))
        policy.model.save_pretrained(served.version, state_dict=weights, save_embedding_layers=False)
        return served

    def load(self, server: HttpClient, served: Served) -> None:
        """Have the adapter loaded unless it is: the server may be new, or another rank was faster.

        Raises ValueError where a server that is well cannot load it.
        """
        if self._is_known(server, served):
            return
        try:
            server.post("/v1/load_lora_adapter", {"lora_name": served.model, "lora_path": served.version})
        except (Refused, Unavailable) as error:
            if not self._is_known(server, served):
                raise ValueError(
                    f"data/engine/weight_sync=lora: {error}; expected vLLM with --enable-lora, --max-lora-rank of at "
                    "least model.policy.lora.r, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and to find it under its path"
                ) from error

    def drop(self, server: HttpClient, served: Served) -> None:
        """Free the place of an adapter that nobody asks for any more."""
        if self._is_known(server, served):
            server.post("/v1/unload_lora_adapter", {"lora_name": served.model})
        shutil.rmtree(served.version, ignore_errors=True)

    def _is_known(self, server: HttpClient, served: Served) -> bool:
        models = server.get("/v1/models", "data")
        names = [model.get("id") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
        return served.model in names
