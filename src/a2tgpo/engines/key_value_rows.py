"""Rows that are sampled side by side behind a cache of keys and values."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from a2tgpo.engines.row_cache import LayerStates, RowCache, attention_dtype
from a2tgpo.policies.policy import Policy


class KeyValueRows:
    """A batch of sessions, each of a length of its own. The states of one are its keys and values by layer."""

    def __init__(self, policy: Policy, cache: RowCache) -> None:
        self._policy, self._cache = policy, cache

    @classmethod
    def of(cls, policy: Policy, states: Sequence[list[LayerStates]], capacity: int) -> "KeyValueRows":
        """A row for each of `states`, with room for `capacity` tokens."""
        return cls(policy, RowCache.of(states, capacity))

    @classmethod
    def joined(cls, parts: Sequence[tuple["KeyValueRows", Sequence[int]]]) -> "KeyValueRows":
        """These rows of each of several batches."""
        return cls(parts[0][0]._policy, RowCache.joined([(part._cache, rows) for part, rows in parts]))

    @staticmethod
    def read(policy: Policy, prompts: Sequence[tuple[int, ...]]) -> list[list[LayerStates]]:
        """The states after each of `prompts`."""
        width = max(1, *map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=policy.device)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        cache = DynamicCache()
        # right padding: causal attention keeps it out of sight, so no mask is needed
        policy.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [
            [
                tuple(states[i, :, :n].to(attention_dtype(states), copy=True) for states in (layer.keys, layer.values))
                for layer in cache.layers
            ]
            for i, n in enumerate(map(len, prompts))
        ]

    def forward(self, new_ids: Sequence[list[int]], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        """Logits after the last of each row's new tokens, which end at the row's length. Padding is on the left, so
        that the last token is the last column."""
        policy, width = self._policy, max(map(len, new_ids))
        ids = torch.tensor([[0] * (width - len(new)) + new for new in new_ids], device=policy.device)
        counts = torch.tensor([len(new) for new in new_ids], device=policy.device)
        columns = torch.arange(width, device=policy.device)
        positions = (torch.tensor(lengths, device=policy.device)[:, None] - width + columns).clamp(min=0)
        mask = self._cache.place(positions, real=columns >= width - counts[:, None])
        key_positions = torch.arange(mask.shape[-1], device=policy.device)[None]
        out = policy.model(
            ids,
            attention_mask=policy.attention_mask(mask, positions, key_positions),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def row(self, row: int, length: int) -> list[LayerStates]:
        """A copy of the states of one row after `length` tokens."""
        return self._cache.row(row, length)
