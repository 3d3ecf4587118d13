"""What signals and credits are given, from the few tensors that a test cares about."""

from collections.abc import Sequence
from dataclasses import fields, replace

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
    return Observed(
        trajectories=trajectories,
        turn_mask=process_mask if turn_mask is None else turn_mask,
        process_mask=process_mask,
        answer_logprob=answer_logprob,
        alias_mask=alias_mask,
        state_mask=state_mask,
        outcome=torch.zeros(rows, dtype=answer_logprob.dtype) if outcome is None else outcome,
        group_ids=torch.zeros(rows, dtype=torch.long) if group_ids is None else group_ids,
        state_ids=torch.arange(rows * turns).view(rows, turns),
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
        belief=gain.new_zeros(rows, turns + 1),
        outcome=outcome,
        group_ids=torch.zeros(rows, dtype=torch.long) if group_ids is None else group_ids,
        state_ids=torch.arange(rows * turns).view(rows, turns),
    )


def rows(inputs: CreditInputs | Observed, order: Tensor) -> CreditInputs | Observed:
    """The same trajectories in another order."""
    tensors = {f.name: getattr(inputs, f.name) for f in fields(inputs) if f.name != "trajectories"}
    return replace(inputs, **{name: tensor[order] for name, tensor in tensors.items()})
