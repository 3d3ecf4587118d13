"""What signals and credits are given, from the few tensors that a test cares about."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from a2tgpo.method.turns import CreditInputs, Observed
from a2tgpo.rollouts.trajectory import Trajectory


def observed(
    answer_logprob: Tensor,
    alias_mask: Tensor,
    state_mask: Tensor,
    outcome: Tensor | None = None,
    group_ids: Tensor | None = None,
    turn_mask: Tensor | None = None,
    trajectories: Sequence[Trajectory] = (),
) -> Observed:
    """A rollout set whose turns are those behind a scored state, all of one prompt unless told otherwise."""
    process_mask = state_mask[:, 1:]
    rows, turns = process_mask.shape
    turn_mask = process_mask if turn_mask is None else turn_mask
    place = torch.arange(rows * turns).view(rows, turns)
    return Observed(
        trajectories=trajectories,
        turn_mask=turn_mask,
        process_mask=process_mask,
        answer_logprob=answer_logprob,
        alias_mask=alias_mask,
        state_mask=state_mask,
        outcome=torch.zeros(rows, dtype=answer_logprob.dtype) if outcome is None else outcome,
        group_ids=torch.zeros(rows, dtype=torch.long) if group_ids is None else group_ids,
        state_ids=place,
        node_ids=torch.where(turn_mask, place, -1),
        action_ids=place,
        n_new_pieces=torch.zeros(rows, turns, dtype=torch.long),
        answer_logprob_without=answer_logprob[:, :-1],  # as if a turn's loss were the loss of all from it on
    )


def from_beliefs(belief: Tensor, state_mask: Tensor, **others: Tensor | None) -> Observed:
    """The rollout set in which the accepted answer had these probabilities."""
    aliases = torch.ones(len(belief), 1, dtype=torch.bool)
    return observed(belief.log()[..., None], aliases, state_mask, **others)


def credit_inputs(
    gain: Tensor, gain_mask: Tensor, turn_mask: Tensor, outcome: Tensor, group_ids: Tensor | None = None
) -> CreditInputs:
    """Inputs of a credit that looks at neither beliefs nor states; one prompt unless told otherwise."""
    rows, turns = gain.shape
    return CreditInputs(
        turn_mask=turn_mask,
        gain=gain,
        gain_mask=gain_mask,
        gain_noise=torch.zeros_like(gain),
        belief=gain.new_zeros(rows, turns + 1),
        outcome=outcome,
        group_ids=torch.zeros(rows, dtype=torch.long) if group_ids is None else group_ids,
        state_ids=torch.arange(rows * turns).view(rows, turns),
        node_ids=torch.where(turn_mask, torch.arange(rows * turns).view(rows, turns), -1),
        action_ids=torch.arange(rows * turns).view(rows, turns),
        n_new_pieces=torch.zeros(rows, turns, dtype=torch.long),
    )


def rows(inputs: CreditInputs | Observed, order: Tensor) -> CreditInputs | Observed:
    """The same trajectories in another order."""
    values = {f.name: getattr(inputs, f.name) for f in fields(inputs)}
    return replace(inputs, **{name: v[order] for name, v in values.items() if isinstance(v, Tensor)})


def random_observed(seed: int, rows: int = 9, turns: int = 4, prompts: int = 3, aliases: int = 3) -> Observed:
    """Trajectories of several prompts in float64: of unlike lengths, with and without a terminal turn or any process
    turn, aliases missing in some; what nobody scored is not a number."""
    rng = torch.Generator().manual_seed(seed)
    n_turns = torch.randint(1, turns + 1, (rows,), generator=rng)
    n_turns[0] = turns
    n_process = n_turns - torch.randint(0, 2, (rows,), generator=rng)
    state_mask = torch.arange(turns + 1) <= n_process[:, None]
    alias_mask = torch.arange(aliases) < torch.randint(1, aliases + 1, (rows,), generator=rng)[:, None]
    logprob = -2 * torch.rand(rows, turns + 1, aliases, dtype=torch.float64, generator=rng)
    seen = observed(
        torch.where(state_mask[:, :, None] & alias_mask[:, None], logprob, torch.nan),
        alias_mask,
        state_mask,
        outcome=torch.randint(-1, 2, (rows,), generator=rng).double(),
        group_ids=torch.randint(0, prompts, (rows,), generator=rng),
        turn_mask=torch.arange(turns) < n_turns[:, None],
    )
    states, actions, new = torch.randint(0, rows, (3, rows, turns), generator=rng)
    return replace(seen, state_ids=states, action_ids=actions, n_new_pieces=new)


@dataclass(frozen=True)
class Tokens:
    """What a loss is given of tokens. Every log-prob is a number, also where no action token is."""

    turn_ids: Tensor
    logprobs: Tensor
    old_logprobs: Tensor
    rollout_logprobs: Tensor


def random_tokens(turn_mask: Tensor, seed: int, drift: float) -> Tokens:
    """One to three tokens a turn, tool tokens between them; log-probs moved by `drift` since the rollout set."""
    rng = torch.Generator().manual_seed(seed)
    lines = []
    for n_turns in turn_mask.sum(1).tolist():
        line = [-1]
        for turn in range(n_turns):
            n_own, n_tool = torch.randint(1, 4, (2,), generator=rng).tolist()
            line += [turn] * n_own + [-1] * n_tool
        lines.append(line)
    width = max(map(len, lines))
    turn_ids = torch.tensor([line + [-1] * (width - len(line)) for line in lines])
    old = -3 * torch.rand(turn_ids.shape, dtype=torch.float64, generator=rng)
    moved, gap = torch.randn(2, *turn_ids.shape, dtype=torch.float64, generator=rng)
    return Tokens(turn_ids, old + drift * moved, old, old + 0.3 * gap)
