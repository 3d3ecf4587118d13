"""A rollout set as padded tensors, and how it is cut into micro-batches.

Conventions: `[b, l]` speaks about token `input_ids[b, l]`, whose log-prob is conditioned on the tokens before it. Rows
are padded on the right. Every `*_mask` is True where something counts. `turn_ids >= 0` is the only loss mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from a2tgpo.rollouts.trajectory import Trajectory

PER_TOKEN = ("input_ids", "turn_ids", "rollout_logprobs", "old_logprobs", "ref_logprobs", "weight")


@dataclass(frozen=True)
class RolloutBatch:
    """Trajectories with everything the loss needs. Axes: B trajectories, L tokens, T turns."""

    input_ids: Int[Tensor, "B L"]
    lengths: Int[Tensor, " B"]
    turn_ids: Int[Tensor, "B L"]
    """k ≥ 0 for an action token of turn k, −1 for prompt, tool results and padding."""
    rollout_logprobs: Float[Tensor, "B L"]
    """Log-prob of each action token when it was sampled, 0 elsewhere."""
    turn_mask: Bool[Tensor, "B T"]
    """The turn exists."""
    process_mask: Bool[Tensor, "B T"]
    """A tool result followed the turn."""
    state_ids: Int[Tensor, "B T"]
    """Equal where turns of the rollout set were taken in the same context."""
    outcome: Float[Tensor, " B"]
    group_ids: Int[Tensor, " B"]
    old_logprobs: Float[Tensor, "B L"]
    ref_logprobs: Float[Tensor, "B L"]
    gain: Float[Tensor, "B T"]
    belief: Float[Tensor, "B T+1"]
    gain_mask: Bool[Tensor, "B T"]
    """The turn has a gain; a subset of `process_mask`."""
    normalized: Float[Tensor, "B T"]
    advantage: Float[Tensor, "B T"]
    clip_low: Float[Tensor, "B T"]
    clip_high: Float[Tensor, "B T"]
    weight: Float[Tensor, "B L"]
    """Share of each token in the loss of its global mini-batch."""

    @property
    def attention_mask(self) -> Bool[Tensor, "B L"]:
        """True on tokens, False on padding."""
        return torch.arange(self.input_ids.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device) -> "RolloutBatch":
        """A copy on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def rows(self, index: Sequence[int]) -> "RolloutBatch":
        """These trajectories, cut to the longest of them."""
        rows = torch.as_tensor(index, device=self.lengths.device)
        length = int(self.lengths[rows].max())
        return replace(
            self,
            **{
                f.name: getattr(self, f.name)[rows][:, :length] if f.name in PER_TOKEN else getattr(self, f.name)[rows]
                for f in fields(self)
            },
        )


def collate(trajectories: Sequence[Trajectory], pad_id: int) -> RolloutBatch:
    """Trajectories as a batch; what scoring and credit add is zero."""
    rows, turns = len(trajectories), max(len(t.turns) for t in trajectories)
    length = max(len(t.token_ids) for t in trajectories)
    tokens = torch.zeros(rows, length)
    per_turn = torch.zeros(rows, turns)
    batch = RolloutBatch(
        input_ids=torch.full((rows, length), pad_id),
        lengths=torch.tensor([len(t.token_ids) for t in trajectories]),
        turn_ids=torch.full((rows, length), -1),
        rollout_logprobs=tokens.clone(),
        turn_mask=torch.tensor([[k < len(t.turns) for k in range(turns)] for t in trajectories]),
        process_mask=torch.tensor([[k < len(t.context_lengths) - 1 for k in range(turns)] for t in trajectories]),
        state_ids=torch.zeros(rows, turns, dtype=torch.long),
        outcome=torch.tensor([t.outcome for t in trajectories]),
        group_ids=torch.tensor([t.group for t in trajectories]),
        old_logprobs=tokens,
        ref_logprobs=tokens,
        gain=per_turn,
        belief=torch.zeros(rows, turns + 1),
        gain_mask=torch.zeros(rows, turns, dtype=torch.bool),
        normalized=per_turn,
        advantage=per_turn,
        clip_low=per_turn,
        clip_high=per_turn,
        weight=tokens,
    )
    states = context_states(trajectories)
    for b, trajectory in enumerate(trajectories):
        n = len(trajectory.token_ids)
        batch.input_ids[b, :n] = torch.tensor(trajectory.token_ids)
        batch.turn_ids[b, :n] = torch.tensor(trajectory.token_turns)
        logprobs = [p for turn in trajectory.turns for p in turn.action_logprobs]
        batch.rollout_logprobs[b, batch.turn_ids[b] >= 0] = torch.tensor(logprobs)
        batch.state_ids[b, : len(trajectory.turns)] = torch.tensor(states[b][: len(trajectory.turns)])
    return batch


def context_states(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """For each trajectory the ids of its contexts: after the prompt, then after each turn. Equal contexts of one
    prompt share an id."""
    known: dict[tuple, int] = {}
    states = []
    for trajectory in trajectories:
        state = known.setdefault((trajectory.group, trajectory.prompt_ids), len(known))
        states.append([state])
        for turn in trajectory.turns:
            state = known.setdefault((state, turn.action_ids, turn.observation_ids), len(known))
            states[-1].append(state)
    return states


def pack(lengths: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """Cut rows into micro-batches of at most `budget` tokens, padding included (a longer row stands alone).

    Rows are sorted by length, so that little is padding. Returns at least `at_least` micro-batches where there are
    rows enough.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    for i in order:
        if not bins or (len(bins[-1]) + 1) * lengths[bins[-1][0]] > budget:
            bins.append([])
        bins[-1].append(i)
    while len(bins) < min(at_least, len(lengths)):
        largest = max(bins, key=len)
        bins.remove(largest)
        bins += [largest[::2], largest[1::2]]
    return bins
