"""What the rest of the project needs of a language model: the weights and the tokenizer that belongs to them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer, and the distribution that actions are drawn from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    temperature: float = 1.0
    """What the logits of actions are divided by, whether they are sampled, scored or trained; not those of beliefs."""
    top_p: float = 1.0
    """Of the distribution at that temperature only the most likely tokens are sampled that together have this much."""
    reads: Literal["block", "segments", "tokens"] = "block"
    """How the model reads on from what it has read: any tokens in one block behind keys and values, or on from the end
    in a memory of its own, a segment or a single token at a time."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def pad_id(self) -> int:
        """Id of padding: the tokenizer's pad token, or its end token where it has none."""
        pad_id = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad_id is None else pad_id

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a message: the tokenizer's end token, and those of the model's generation settings."""
        known = self.model.generation_config.eos_token_id
        further = known if isinstance(known, list) else [known]
        return frozenset({self.tokenizer.eos_token_id, *further} - {None})

    @property
    def max_length(self) -> int:
        """Positions the model was made for; any number where it counts none, as recurrent models.

        Where longer texts turn all positions otherwise (longrope), those before the turn: what was read would change.
        """
        config = self.model.config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            return rope["original_max_position_embeddings"]
        return getattr(config, "max_position_embeddings", sys.maxsize)

    @cached_property
    def opening_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before plain text: its begin token, or nothing."""
        whole, bare = (self.tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return tuple(whole[:start])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled tokens, exactly; an end token that closes them is no part of it."""
        ids = list(ids)
        if ids and ids[-1] in self.end_ids:
            ids = ids[:-1]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def text_lengths(self, ids: Sequence[int]) -> list[int]:
        """How many characters each token adds to `decode(ids)`.

        A character that several tokens make is the last one's; an end token that closes them adds none.
        """
        lengths = [0] * len(ids)
        known = read = 0  # the tokens of the last character, and those behind which all are whole
        for end in range(1, len(ids) + 1):
            before, text = self.decode(ids[known:read]), self.decode(ids[known:end])
            if not text.endswith("\N{REPLACEMENT CHARACTER}") or end == len(ids):
                lengths[end - 1] = len(text) - len(before)
                known, read = read, end
        return lengths

    @cached_property
    def _windows(self) -> dict[str, int | None]:
        """For each kind of attention layer how many positions back it sees, None for all."""
        config = self.model.config.get_text_config().to_dict()
        window = config.get("sliding_window")
        layers = config.get("layer_types") or config.get("attention_layers")
        kinds = set(layers or (["full_attention"] if window is None else ["sliding_attention"]))
        if unknown := kinds - {"full_attention", "sliding_attention"}:
            raise ValueError(f"layers of kind {sorted(unknown)}; expected full or sliding attention")
        return {kind: window if kind == "sliding_attention" else None for kind in kinds}

    def attention_mask(
        self, mask: Bool[Tensor, "B 1 Q K"], positions: Int[Tensor, "B Q"], key_positions: Int[Tensor, "#B K"]
    ) -> Tensor | dict[str, Tensor]:
        """`mask` in the form the model takes: by kind of layer where it has several, each with its window.

        Eager attention adds a mask and would misread booleans. Raises ValueError for layers that take no mask.
        """
        forms = {}
        for kind, window in self._windows.items():
            seen = mask
            if window is not None:
                seen = mask & (positions[:, None, :, None] - key_positions[:, None, None, :] < window)
            forms[kind] = self._form(seen)
        return forms if len(forms) > 1 else next(iter(forms.values()))

    def _form(self, mask: Bool[Tensor, "B 1 Q K"]) -> Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B 1 Q K"]:
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


def trained_names(policy: Policy) -> set[str]:
    """Names of the weights that a checkpoint holds: all but frozen ones, which the policy's own folder has."""
    frozen = {name for name, p in policy.model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return policy.model.state_dict().keys() - frozen


def require_float32(policy: Policy) -> None:
    """Raises ValueError where weights that are trained are not float32: a small step would be rounded away."""
    for weight in policy.model.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            raise ValueError(
                f"model.policy.dtype={str(weight.dtype).removeprefix('torch.')}: expected float32 for weights that are "
                "trained, or an adapter (model.policy.lora); trainer.precision=bf16-mixed computes in bf16"
            )


def require_same_architecture(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming the first of a checkpoint's weights that does not fit the policy's trained ones."""
    own = policy.model.state_dict()
    for name in sorted(trained_names(policy) | weights.keys()):
        here = tuple(own[name].shape) if name in own else "absent"
        there = tuple(weights[name].shape) if name in weights else "absent"
        if here != there:
            raise ValueError(f"ckpt_path: checkpoint of another architecture; {name} is {there}, expected {here}")
