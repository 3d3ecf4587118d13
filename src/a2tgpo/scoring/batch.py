"""A rollout set as padded tensors, and how it is cut into micro-batches.

Conventions: `[b, l]` speaks about token `input_ids[b, l]`, whose log-prob is conditioned on the tokens before it. Rows
are padded on the right. Every `*_mask` is True where something counts. `turn_ids >= 0` is the only loss mask.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from a2tgpo.method.turns import TurnCredit
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.system.distributed import max_over_ranks

PER_TOKEN = ("input_ids", "turn_ids", "rollout_logprobs", "old_logprobs", "ref_logprobs", "loss_weight")


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
    """The turn exists, and belongs to this trajectory."""
    process_mask: Bool[Tensor, "B T"]
    """A tool result followed the turn."""
    context_ids: Int[Tensor, "B T+1"]
    """Equal where trajectories of a prompt have the same context, token for token; −1 where there is none. Context 0 is
    the prompt, context t ends after turn t."""
    state_ids: Int[Tensor, "B T"]
    """Equal where turns of a prompt were taken in the same anchor state; in the same context where nobody knows it."""
    action_ids: Int[Tensor, "B T"]
    """Equal where turns of a prompt did the same; the same tokens where nobody says what they did."""
    n_new_pieces: Int[Tensor, "B T"]
    """Texts and passages that the turn's tool result brought and no earlier one of the trajectory had."""
    outcome: Float[Tensor, " B"]
    group_ids: Int[Tensor, " B"]
    old_logprobs: Float[Tensor, "B L"]
    ref_logprobs: Float[Tensor, "B L"]
    credit: TurnCredit
    loss_weight: Float[Tensor, "B L"]
    """Share of each token in the loss of its global mini-batch, times the correction for the engine's policy."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device) -> "RolloutBatch":
        """A copy on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def rows(self, index: Sequence[int]) -> "RolloutBatch":
        """These trajectories, cut to the longest of them."""
        rows = torch.as_tensor(index, device=self.lengths.device)
        length = int(self.lengths[rows].max())
        cut = {
            f.name: getattr(self, f.name)[rows][:, :length] if f.name in PER_TOKEN else getattr(self, f.name)[rows]
            for f in fields(self)
            if f.name != "credit"
        }
        return replace(self, **cut, credit=self.credit.rows(rows))

    def stand_in(self) -> "RolloutBatch":
        """One row without an action token, where a rank has none to train on: every rank takes part in every pass."""
        row = self.rows([0])
        return replace(row, turn_ids=torch.full_like(row.turn_ids, -1))


def collate(trajectories: Sequence[Trajectory], pad_id: int) -> RolloutBatch:
    """Trajectories as a batch; what scoring and credit add is zero."""
    rows, turns = len(trajectories), max(len(t.turns) for t in trajectories)
    length = max(len(t.token_ids) for t in trajectories)
    tokens = torch.zeros(rows, length)
    contexts = _context_ids(trajectories, turns)
    batch = RolloutBatch(
        input_ids=torch.full((rows, length), pad_id),
        lengths=torch.tensor([len(t.token_ids) for t in trajectories]),
        turn_ids=torch.full((rows, length), -1),
        rollout_logprobs=tokens.clone(),
        turn_mask=torch.tensor([[t.n_shared <= k < len(t.turns) for k in range(turns)] for t in trajectories]),
        process_mask=torch.tensor(
            [[t.n_shared <= k < len(t.context_lengths) - 1 for k in range(turns)] for t in trajectories]
        ),
        context_ids=torch.tensor(contexts),
        state_ids=torch.tensor(_state_ids(trajectories, contexts, turns)),
        action_ids=torch.tensor(_action_ids(trajectories, turns)),
        n_new_pieces=torch.tensor([_padded([x.n_new_pieces for x in t.turns], turns, 0) for t in trajectories]),
        outcome=torch.tensor([t.outcome for t in trajectories], dtype=torch.float32),
        group_ids=torch.tensor([t.group for t in trajectories]),
        old_logprobs=tokens,
        ref_logprobs=tokens,
        credit=TurnCredit.zeros(rows, turns),
        loss_weight=tokens,
    )
    for b, trajectory in enumerate(trajectories):
        n = len(trajectory.token_ids)
        batch.input_ids[b, :n] = torch.tensor(trajectory.token_ids)
        batch.turn_ids[b, :n] = torch.tensor(trajectory.token_turns)
        logprobs = [p for turn in trajectory.turns[trajectory.n_shared :] for p in turn.action_logprobs]
        batch.rollout_logprobs[b, batch.turn_ids[b] >= 0] = torch.tensor(logprobs)
    return batch


def _context_ids(trajectories: Sequence[Trajectory], n_turns: int) -> list[list[int]]:
    """After the prompt, then after each turn; −1 behind the last."""
    known: dict[tuple, int] = {}
    rows = []
    for trajectory in trajectories:
        context = known.setdefault((trajectory.group, trajectory.prompt_ids), len(known))
        row = [context]
        for turn in trajectory.turns:
            context = known.setdefault((context, turn.action_ids, turn.observation_ids), len(known))
            row.append(context)
        rows.append(_padded(row, n_turns + 1))
    return rows


def _state_ids(trajectories: Sequence[Trajectory], contexts: list[list[int]], n_turns: int) -> list[list[int]]:
    known: dict[tuple, int] = {}
    rows = []
    for trajectory, row in zip(trajectories, contexts, strict=True):
        states: list[int] = []
        for turn, context in zip(trajectory.turns, row, strict=False):
            key = (context,) if turn.state is None else (trajectory.group, turn.state)
            states.append(known.setdefault(key, len(known)))
        rows.append(_padded(states, n_turns))
    return rows


def _action_ids(trajectories: Sequence[Trajectory], n_turns: int) -> list[list[int]]:
    known: dict[tuple, int] = {}
    rows = []
    for trajectory in trajectories:
        done = [turn.action_ids if turn.action is None else turn.action for turn in trajectory.turns]
        rows.append(_padded([known.setdefault((trajectory.group, action), len(known)) for action in done], n_turns))
    return rows


def _padded(row: list[int], width: int, filler: int = -1) -> list[int]:
    return row + [filler] * (width - len(row))


def micro_batches(lengths: Sequence[int], budget: int, mini_batches: Sequence[Sequence[int]] = ()) -> list[list[int]]:
    """The rows of each micro-batch of at most `budget` tokens, as many on every rank: a rank with fewer rows than that
    has empty ones.

    None reaches over the border of a mini-batch, whose rows `mini_batches` lists; without, all rows are one.
    """
    cut = []
    for rows in mini_batches or [range(len(lengths))]:
        own = [lengths[row] for row in rows]
        parts = pack(own, budget)
        needed = max_over_ranks(len(parts))
        if needed > len(parts):
            parts = pack(own, budget, at_least=needed)
        cut += [[rows[i] for i in part] for part in parts] + [[]] * (needed - len(parts))
    return cut


def token_positions(lengths: Sequence[int], micro_batches: Sequence[Sequence[int]]) -> Counter[str]:
    """Positions that a forward pass over rows of these lengths computes (`forwarded`), and how many of them are not
    padding (`useful`)."""
    forwarded = sum(len(rows) * max(lengths[i] for i in rows) for rows in micro_batches if rows)
    return Counter(forwarded=forwarded, useful=sum(lengths[i] for rows in micro_batches for i in rows))


PADDING = 0.05
"""Padded positions of a mini-batch are at most this share of its tokens, however many micro-batches that takes."""


def pack(lengths: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """Cut rows into the fewest micro-batches of at most `budget` positions (a longer row stands alone) that hold
    padding to PADDING, and of those ways the one with the least padding.

    Returns at least `at_least` micro-batches where there are rows enough, the longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    borders = _borders([lengths[i] for i in order], budget, min(at_least, len(order)))
    return [order[start:end] for start, end in pairwise(borders)]


def _borders(lengths: Sequence[int], budget: int, at_least: int) -> list[int]:
    """Where rows, the longest first, are cut: f_k(j) = min_i f_{k−1}(i) + (j − i)·l_i are the positions that the first
    j rows take in k micro-batches."""
    if not lengths:
        return []
    n, longest = len(lengths), torch.tensor(lengths, dtype=torch.float64)
    size = torch.arange(1, min(n, max(1, budget // lengths[-1])) + 1)
    start = torch.arange(1, n + 1)[:, None] - size  # of a micro-batch by its end and size
    positions = size * longest[start.clamp(min=0)]
    positions[(start < 0) | ((positions > budget) & (size > 1))] = torch.inf
    taken, sizes = torch.full((n + 1,), torch.inf, dtype=torch.float64), []
    taken[0] = 0
    while len(sizes) < at_least or taken[-1] > (1 + PADDING) * longest.sum():
        least, choice = (taken[start.clamp(min=0)] + positions).min(1)
        taken = F.pad(least, (1, 0), value=torch.inf)
        sizes.append(choice + 1)
    borders = [n]
    for of_last in reversed(sizes):
        borders.append(borders[-1] - int(of_last[borders[-1] - 1]))
    return borders[::-1]
