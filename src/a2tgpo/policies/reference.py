"""The frozen reference model."""

import copy
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel

from a2tgpo.policies.policy import Policy


def frozen_copy(policy: Policy) -> Policy:
    """A second copy of the policy as it is now, which never changes."""
    model = copy.deepcopy(policy.model).eval().requires_grad_(False)
    return replace(policy, model=model)


class WithoutAdapter(torch.nn.Module):
    """A model with its adapter switched off for the length of each forward; holds no weights of its own."""

    def __init__(self, adapted: PeftModel) -> None:
        super().__init__()
        self.adapted, self.config = adapted, adapted.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.adapted.device

    def get_output_embeddings(self) -> torch.nn.Module:
        """The layer that projects to the vocabulary, without its adapter."""
        head = self.adapted.get_output_embeddings()
        return getattr(head, "base_layer", getattr(head, "original_module", head))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward."""
        with self.adapted.disable_adapter():
            return self.adapted(*args, **kwargs)


def disabled_adapter(policy: Policy) -> Policy:
    """The policy's own base model, for LoRA policies: no second copy.

    Raises ValueError where the policy has no adapter.
    """
    if not isinstance(policy.model, PeftModel):
        raise ValueError(
            "model/reference=disabled_adapter: expected a policy with an adapter, e.g. model/policy=tiny_lora"
        )
    return replace(policy, model=WithoutAdapter(policy.model))


def no_reference(policy: Policy) -> None:
    """No reference: no KL is measured and no second forward is paid."""
