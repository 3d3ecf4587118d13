"""How far the steps of an iteration moved the policy, turn by turn: its rollout set, scored once more behind them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method.functional import clipped, to_tokens
from a2tgpo.method.method import Method
from a2tgpo.scoring.batch import RolloutBatch


@dataclass(frozen=True)
class AfterUpdate:
    """The policy after the last step, held against the one that was scored. Axes: B trajectories, L tokens, T turns."""

    logprob_change: Float[Tensor, "B L"]
    """log π_after − log π_old of every action token (nats), 0 elsewhere."""
    ratio: Float[Tensor, "B T"]
    """The method's ratio s; where each token has its own, their geometric mean; 1 where there is no turn."""
    clipped: Float[Tensor, "B T"]
    """Share of the turn's tokens whose gradient a bound makes 0: 0 or 1, unless each token has its own ratio."""


@torch.no_grad()
def after_update(method: Method, batch: RolloutBatch, logprobs: Float[Tensor, "B L"]) -> AfterUpdate:
    """What became of `batch` under a policy with these `logprobs`."""
    log_ratio = method.ratio(logprobs, batch.old_logprobs, batch.turn_ids)
    credit = batch.credit
    bounds = (to_tokens(x, batch.turn_ids) for x in (credit.advantage, credit.clip_low, credit.clip_high))
    gone = clipped(log_ratio, *bounds).to(log_ratio.dtype)
    n_turns = batch.turn_mask.shape[1]
    ratio = _mean_of_turns(log_ratio, batch.turn_ids, n_turns).exp()
    return AfterUpdate(logprobs - batch.old_logprobs, ratio, _mean_of_turns(gone, batch.turn_ids, n_turns))


def _mean_of_turns(values: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"], n_turns: int) -> Float[Tensor, "B T"]:
    """Mean over the tokens of each turn; 0 where it has none."""
    mask, turn = turn_ids >= 0, turn_ids.clamp(min=0)
    empty = values.new_zeros(len(values), n_turns)
    total = empty.scatter_add(1, turn, torch.where(mask, values, 0.0))
    return total / empty.scatter_add(1, turn, mask.to(values.dtype)).clamp(min=1)
