"""A²TGPO's credit, without its clipping, in verl's registry of advantage estimators. Written against verl 0.9.1.

Clip bounds are out of reach: verl's loss is given advantages but no bounds, so its own clip range holds for all turns.

verl gives an estimator the rewards of a response's tokens, the mask of its sampled tokens and the prompt of each row.
So the gains must stand among the rewards: a reward manager puts the gain of a turn on the **first token of the tool
result** that answers it, and the outcome on any other token (verl's own place is the last one). Beliefs are scored by
that reward manager, with `a2tgpo.scoring.beliefs` and `a2tgpo.scoring.score`. It must return a reward for
every token: where verl's agent loop asks for one number a sequence, it places that on the last token, and no gain
arrives.

This file needs torch and jaxtyping alone, because verl pins versions of transformers that this project does not take:
run it in verl's own environment, with `src/` on the path.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from a2tgpo.method.functional import to_tokens
from a2tgpo.method.method import PAPER, turn_ids
from a2tgpo.method.protocols import Credit

NAME = "a2tgpo"


def register(credit: Credit = PAPER.credit) -> None:
    """Make `algorithm.adv_estimator=a2tgpo` known to verl; call it once in the process of its trainer."""
    from verl.trainer.ppo.core_algos import register_adv_est  # optional: only who runs verl has it

    register_adv_est(NAME)(partial(compute_a2tgpo_advantage, credit=credit))


@torch.no_grad()
def compute_a2tgpo_advantage(
    token_level_rewards: Float[Tensor, "B L"],
    response_mask: Shaped[Tensor, "B L"],
    index: Shaped[np.ndarray, " B"],
    config: object = None,
    credit: Credit = PAPER.credit,
) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
    """Advantage of each sampled token, twice: verl wants returns too, which only a critic reads.

    `index` names the prompt of each row. A turn that another turn follows has a gain; the last one has where the token
    after it holds a reward other than 0. verl's `config` is not read: `credit` holds the parameters.

    Raises ValueError where there are responses of several turns, and not one gain.
    """
    turns = turn_ids(response_mask.bool())
    n_turns = int(turns.max()) + 1
    rewards = token_level_rewards.float()
    placed = torch.zeros_like(turns, dtype=torch.bool)
    placed[:, 1:] = (turns[:, 1:] < 0) & (turns[:, :-1] >= 0)  # the first token after a turn
    owner = turns.roll(1, 1)[placed]
    row = placed.nonzero()[:, 0]
    gain = rewards.new_zeros(len(turns), n_turns)
    gain[row, owner] = rewards[placed]
    if n_turns > 1 and not gain.any():
        raise ValueError(
            "token_level_rewards: no reward on the first token of any tool result; expected a reward manager that puts "
            "the gain of each turn there"
        )
    n_own = turns.amax(1, keepdim=True) + 1
    position = torch.arange(n_turns, device=turns.device)
    turn_mask = position < n_own
    gain_mask = (position < n_own - 1) | (turn_mask & (gain != 0))
    groups = torch.as_tensor(np.unique(index, return_inverse=True)[1], device=turns.device).reshape(-1)
    outcome = rewards.masked_fill(placed, 0.0).sum(1)
    belief = torch.nn.functional.pad(gain.cumsum(1), (1, 0))
    states = torch.arange(turns.shape[0], device=turns.device)[:, None] * n_turns + position
    _, advantage = credit(gain, belief, gain_mask, turn_mask, outcome, groups, states)
    advantages = to_tokens(advantage, turns)
    return advantages, advantages
