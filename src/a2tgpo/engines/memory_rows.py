"""Rows that are sampled side by side in the model's own memory."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.policies.memory import Memory, fresh, read, side_by_side
from a2tgpo.policies.policy import Policy


class MemoryRows:
    """A batch of sessions, each of a length of its own. The states of one are a memory of one row, which grows by
    itself, whatever the batch's capacity."""

    def __init__(self, policy: Policy, states: Sequence[Memory], capacity: int) -> None:
        self._policy, self._states, self._memory = policy, states, None

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

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Drop all rows but these."""
        self._memory = self._memory.rows(rows.tolist())

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
