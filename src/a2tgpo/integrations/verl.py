"""A²TGPO's credit, without its clipping, in verl's registry of advantage estimators. Written against verl 0.9.1.

Clip bounds are out of reach: verl's loss is given advantages but no bounds, so its own clip range holds for all turns.

verl gives an estimator the rewards of a response's tokens, the mask of its sampled tokens and the prompt of each row.
So the gains must stand among the rewards: a reward manager puts the gain of a turn on the **first token of the tool
result** that answers it, and the outcome on any other token (verl's own place is the last one). Beliefs are scored by
that reward manager, with `a2tgpo.scoring.beliefs` and `a2tgpo.scoring.score`. It must return a reward for
every token: where verl's agent loop asks for one number a sequence, it places that on the last token, and no gain
arrives.

This file needs torch, numpy and jaxtyping alone, because verl pins versions of transformers that this project does not
take: run it in verl's own environment, with `src/` on the path.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from a2tgpo.integrations.turns import turn_ids
from a2tgpo.method.functional import to_tokens
from a2tgpo.method.method import PAPER, Method
from a2tgpo.method.turns import Gains, Observed
from a2tgpo.rollouts.trajectory import Task

NAME = "a2tgpo"


def register(method: Method = PAPER) -> None:
    """Make `algorithm.adv_estimator=a2tgpo` known to verl; call it once in the process of its trainer."""
    from verl.trainer.ppo.core_algos import register_adv_est  # optional: only who runs verl has it

    register_adv_est(NAME)(partial(compute_a2tgpo_advantage, method=method))


@dataclass(frozen=True)
class PlacedGains:
    """A signal whose gains were placed among the rewards by somebody else."""

    gain: Float[Tensor, "B T"]
    gain_mask: Bool[Tensor, "B T"]

    def answers(self, task: Task) -> Sequence[str]:
        """None: beliefs were scored before."""
        return ()

    def __call__(self, observed: Observed) -> Gains:
        """The gains; beliefs as far as gains tell, from 0 on."""
        return Gains(self.gain, self.gain_mask, torch.nn.functional.pad(self.gain.cumsum(1), (1, 0)))


@torch.no_grad()
def compute_a2tgpo_advantage(
    token_level_rewards: Float[Tensor, "B L"],
    response_mask: Shaped[Tensor, "B L"],
    index: Shaped[np.ndarray, " B"],
    config: object = None,
    method: Method = PAPER,
) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
    """Advantage of each sampled token, twice: verl wants returns too, which only a critic reads.

    `index` names the prompt of each row. A turn that another turn follows has a gain; the last one has where the token
    after it holds a reward other than 0, unless that token is the last of the tensor: there the response was cut, and
    verl puts the outcome. A response without a sampled token is compared with nobody, whatever stands on its padding.
    verl's `config` is not read: `method` holds the parameters.

    Raises ValueError where there are responses of several turns, and not one gain.
    """
    sampled, advantages = response_mask.bool(), torch.zeros_like(token_level_rewards, dtype=torch.float32)
    rows = sampled.any(1)
    if rows.any():
        prompts = np.unique(index, return_inverse=True)[1]
        groups = torch.as_tensor(prompts, device=rows.device).reshape(-1)
        advantages[rows] = _advantages(token_level_rewards[rows].float(), sampled[rows], groups[rows], method)
    return advantages, advantages


def _advantages(
    rewards: Float[Tensor, "B L"], sampled: Bool[Tensor, "B L"], group_ids: Int[Tensor, " B"], method: Method
) -> Float[Tensor, "B L"]:
    turns = turn_ids(sampled)
    placed = torch.zeros_like(sampled)
    placed[:, 1:-1] = (turns[:, 1:-1] < 0) & (turns[:, :-2] >= 0)  # the first token after a turn
    position = torch.arange(int(turns.max()) + 1, device=turns.device)
    n_own = turns.amax(1, keepdim=True) + 1
    turn_mask = position < n_own
    gain = rewards.new_zeros(turn_mask.shape)
    gain[placed.nonzero()[:, 0], turns.roll(1, 1)[placed]] = rewards[placed]
    if len(position) > 1 and not gain.any():
        raise ValueError(
            "token_level_rewards: no reward on the first token of any tool result; expected a reward manager that puts "
            "the gain of each turn there"
        )
    gain_mask = (position < n_own - 1) | (turn_mask & (gain != 0))
    n_rows, n_turns = turn_mask.shape
    apart = torch.arange(n_rows, device=turns.device)[:, None] * n_turns + position  # verl does not say what is equal
    observed = Observed(
        trajectories=(),
        turn_mask=turn_mask,
        process_mask=gain_mask,
        answer_logprob=rewards.new_zeros(n_rows, n_turns + 1, 0),
        alias_mask=turn_mask[:, :0],
        state_mask=torch.nn.functional.pad(gain_mask, (1, 0), value=False),
        outcome=rewards.masked_fill(placed, 0.0).sum(1),
        group_ids=group_ids,
        state_ids=apart,
        node_ids=torch.where(turn_mask, apart, -1),
        action_ids=apart,
        n_new_pieces=torch.zeros_like(apart),
    )
    credit = replace(method, signal=PlacedGains(gain, gain_mask)).assign(observed)
    return to_tokens(credit.advantage, turns)
