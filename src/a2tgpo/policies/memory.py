"""What a model keeps of the tokens it has read, in a form of its own: keys and values, recurrent states, convolutions.

A memory has a row for each text that is read. Nothing is padded on the way in, since a recurrent state would take it
for text: rows go on by equally many tokens, and what is kept of every token ends at the same place in all of them.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedConfig
from transformers.generation.utils import ALL_CACHE_NAMES

from a2tgpo.policies.policy import Policy

BY_TOKEN = ("keys", "values", "indexer_keys")
"""States with an entry for every token, along the last axis but one."""
COUNTS = ("cumulative_length", "seqlen_offset")
"""Numbers that say how many tokens were read."""


@dataclass(frozen=True)
class Memory:
    """What a model has read. It takes the states under `name` and changes them in place."""

    name: str
    states: Any
    lengths: tuple[int, ...]
    """Tokens read in each row."""
    blanks: tuple[int, ...]
    """Places before them that only fill up what is kept of every token."""

    def options(self, policy: Policy, count: int) -> dict[str, Any]:
        """What a forward over the next `count` tokens of every row takes beside them."""
        lengths, blanks = (torch.tensor(n, device=policy.device)[:, None] for n in (self.lengths, self.blanks))
        options = {"use_cache": True, "position_ids": lengths + torch.arange(count, device=policy.device)}
        if any(self.blanks):
            width = self.lengths[0] + self.blanks[0] + count
            options["attention_mask"] = (torch.arange(width, device=policy.device) >= blanks).long()
        taken = _arguments(policy)
        return {name: option for name, option in options.items() if name in taken} | {self.name: self.states}

    def after(self, count: int) -> "Memory":
        """The same once a forward has read `count` tokens more."""
        return replace(self, lengths=tuple(n + count for n in self.lengths))

    def rows(self, index: Sequence[int]) -> "Memory":
        """A copy of these rows, in this order, each as often as it is named."""
        lengths, blanks = (tuple(numbers[i] for i in index) for numbers in (self.lengths, self.blanks))
        rows = list(index)
        states = _mapped([self.states], lambda _, states: states[0][rows], lengths[0] + blanks[0])
        return Memory(self.name, states, lengths, blanks)

    def row(self, i: int) -> "Memory":
        """A copy of one row, without blanks."""
        length = self.lengths[i]

        def own(name: str, states: Sequence[Tensor]) -> Tensor:
            row = states[0][[i]]
            return row[..., max(row.shape[-2] - length, 0) :, :] if name in BY_TOKEN else row

        return Memory(self.name, _mapped([self.states], own, length), (length,), (0,))


def fresh(policy: Policy, rows: int) -> Memory:
    """The memory of a model that has read nothing yet. Raises ValueError where it takes none."""
    name = next((name for name in ALL_CACHE_NAMES if name in _arguments(policy)), None)
    if name is None:
        raise ValueError("its forward takes no memory")
    states = DynamicCache(config=policy.model.config) if policy.model._supports_default_dynamic_cache() else None
    return Memory(name, states, (0,) * rows, (0,) * rows)


def side_by_side(memories: Sequence[Memory]) -> Memory:
    """The rows of several memories without blanks as those of one."""
    lengths = sum((memory.lengths for memory in memories), ())
    filled = set[str]()

    def stacked(name: str, states: Sequence[Tensor]) -> Tensor:
        if name in BY_TOKEN:
            filled.add(name)
            longest = max(rows.shape[-2] for rows in states)
            states = [F.pad(rows, (0, 0, longest - rows.shape[-2], 0)) for rows in states]
        return torch.cat(states)

    states = _mapped([memory.states for memory in memories], stacked, max(lengths))
    blanks = tuple(max(lengths) - length if filled else 0 for length in lengths)
    return Memory(memories[0].name, states, lengths, blanks)


def strides(policy: Policy, memory: Memory, count: int) -> list[slice]:
    """The next `count` tokens in the pieces in which the model can read them behind `memory`."""
    if policy.reads == "tokens" and any(memory.lengths):
        return [slice(i, i + 1) for i in range(count)]
    return [slice(0, count)]


def read(policy: Policy, ids: Int[Tensor, "B Q"], memory: Memory) -> tuple[Float[Tensor, "B V"], Memory]:
    """Logits of what follows the last of `ids`, and the memory once it holds them. `memory` itself is used up."""
    keep = {"logits_to_keep": 1} if "logits_to_keep" in _arguments(policy) else {}
    for part in strides(policy, memory, ids.shape[1]):
        piece = ids[:, part]
        out = policy.model(piece, **memory.options(policy, piece.shape[1]), **keep)
        states = memory.states if memory.states is not None else out[memory.name]
        memory = replace(memory.after(piece.shape[1]), states=states)
    return out.logits[:, -1], memory


def _arguments(policy: Policy) -> frozenset[str]:
    model = policy.model
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # an adapter takes anything
    return frozenset(inspect.signature(inner.forward).parameters)


def _mapped(
    states: Sequence[Any], change: Callable[[str, Sequence[Tensor]], Tensor], width: int, name: str = ""
) -> Any:
    """What `change` makes of the tensors with rows of equally built `states`, held as they are held there."""
    first = states[0]
    if name in COUNTS:
        return width if isinstance(first, int) else torch.full_like(first, width)
    if isinstance(first, Tensor):
        return change(name, states) if first.dim() > 1 else first.clone()
    if isinstance(first, list | tuple):
        return type(first)(_mapped(parts, change, width, name) for parts in zip(*states, strict=True))
    if isinstance(first, dict):
        return {key: _mapped([part[key] for part in states], change, width, key) for key in first}
    if hasattr(first, "__dict__") and not isinstance(first, type | PreTrainedConfig):
        twin = copy.copy(first)
        twin.__dict__ = _mapped([vars(part) for part in states], change, width)
        return twin
    return first
