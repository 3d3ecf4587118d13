"""What the rest of the project needs of a language model: the weights and the tokenizer that belongs to them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def pad_id(self) -> int:
        """Id of padding: the tokenizer's pad token, or its end token where it has none."""
        pad_id = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad_id is None else pad_id

    def attention_mask(self, mask: Bool[Tensor, "B 1 Q K"]) -> Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B 1 Q K"]:
        """`mask` in the form the model's attention takes: eager attention adds it and would misread booleans."""
        if self.model.config._attn_implementation == "sdpa":
            return mask
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill(~mask, lowest)


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, whatever it was before outside, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def require_same_architecture(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming the first of a checkpoint's weights that does not fit the policy."""
    own = policy.model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        here = tuple(own[name].shape) if name in own else "absent"
        there = tuple(weights[name].shape) if name in weights else "absent"
        if here != there:
            raise ValueError(f"ckpt_path: checkpoint of another architecture; {name} is {there}, expected {here}")
