"""Rows that are sampled side by side in the model's own memory."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from a2tgpo.policies.memory import Memory, fresh, read, side_by_side
from a2tgpo.policies.policy import Policy


class MemoryRows:
    """A batch of sessions, each of a length of its own. The states of one are a memory of one row."""

    def __init__(self, policy: Policy, states: Sequence[Memory], memory: Memory | None = None) -> None:
        self._policy, self._states, self._memory = policy, states, memory

    @classmethod
    def of(cls, policy: Policy, states: Sequence[Memory], capacity: int) -> "MemoryRows":
        """A row for each of `states`, which grow by themselves, whatever the `capacity`."""
        return cls(policy, states)

    @classmethod
    def joined(cls, parts: Sequence[tuple["MemoryRows", Sequence[int]]]) -> "MemoryRows":
        """These rows of each of several batches."""
        memories = [part._memory.row(row) for part, rows in parts for row in rows]
        return cls(parts[0][0]._policy, (), side_by_side(memories))

    @staticmethod
    def read(policy: Policy, prompts: Sequence[tuple[int, ...]]) -> list[Memory]:
        """The states after each of `prompts`."""
        states = [fresh(policy, 1) for _ in prompts]
        _catch_up(policy, states, prompts)
        return states

    def forward(self, new_ids: Sequence[Sequence[int]], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        """Logits after the last of each row's new tokens: at first any number of them, then one a row."""
        if self._memory is None:
            states = list(self._states)
            logits = _catch_up(self._policy, states, new_ids)
            self._memory = side_by_side(states)
            return torch.stack(logits)
        logits, self._memory = read(self._policy, torch.tensor(new_ids, device=self._policy.device), self._memory)
        return logits

    def row(self, row: int, length: int) -> Memory:
        """A copy of the states of one row."""
        return self._memory.row(row)


def _catch_up(policy: Policy, states: list[Memory], new_ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Read `new_ids` behind `states`, which are replaced; returns the logits that follow each row.

    Rows with equally many new tokens are read together: padding between tokens would enter a recurrent state.
    """
    logits: list[Tensor] = [torch.empty(0)] * len(states)
    alike = defaultdict(list)
    for i, new in enumerate(new_ids):
        if new:
            alike[len(new), states[i].lengths == (0,)].append(i)
    for rows in alike.values():
        ids = torch.tensor([new_ids[i] for i in rows], device=policy.device)
        found, memory = read(policy, ids, side_by_side([states[i] for i in rows]))
        for place, i in enumerate(rows):
            logits[i], states[i] = found[place], memory.row(place)
    return logits
