"""Log-probs of actions and beliefs of contexts, one cached pass per model.

An ordinary causal forward over the trajectories yields the log-probs of their actions; its cache then serves the
answers of all belief states in one block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache

from a2tgpo.policies.policy import Policy, evaluation_mode
from a2tgpo.scoring.batch import RolloutBatch, pack
from a2tgpo.scoring.beliefs import Question, answer_logprobs
from a2tgpo.system.distributed import max_over_ranks


@dataclass(frozen=True)
class TokenStats:
    """Log-prob of each action token and entropy of the distribution it came from; 0 elsewhere."""

    logprobs: Float[Tensor, "B L"]
    entropy: Float[Tensor, "B L"]


def token_stats(
    policy: Policy,
    input_ids: Int[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    cache: Cache | None = None,
    with_entropy: bool = True,
) -> TokenStats:
    """log π(y_l | y_<l) of every action token, in fp32, and the entropy beside it (without gradient; 0 unless wanted).

    Only the columns that predict an action token of some row are projected to the vocabulary. Padding is on the
    right, where causal attention keeps it out of sight. `cache` is filled on the way.
    """
    columns = (turn_ids >= 0).any(0).nonzero()[:, 0]
    out = policy.model(input_ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=columns - 1)
    logits = out.logits.float()
    normaliser = logits.logsumexp(-1)
    selected = logits.gather(-1, input_ids[:, columns, None])[..., 0] - normaliser
    entropy = torch.zeros_like(selected)
    if with_entropy:
        with torch.no_grad():
            entropy = normaliser - (logits.softmax(-1) * logits).sum(-1)
    mask = turn_ids[:, columns] >= 0
    zeros = selected.new_zeros(turn_ids.shape)
    return TokenStats(
        zeros.index_copy(1, columns, torch.where(mask, selected, 0.0)),
        zeros.index_copy(1, columns, torch.where(mask, entropy, 0.0)),
    )


def queries_of_rows(rows: Sequence[int], questions: Sequence[Question]) -> list[Question]:
    """The questions about these rows; where all are about others, one that nobody asked, for as many forwards on every
    rank."""
    own = [question for question in questions if question.row in rows]
    return own or [Question(rows[0], 1, question.answer) for question in questions[:1]]


@torch.no_grad()
def score(
    policy: Policy, batch: RolloutBatch, questions: Sequence[Question], token_budget: int
) -> tuple[TokenStats, Float[Tensor, " N"]]:
    """Token statistics of the whole batch and the mean answer log-prob of each question, on the CPU.

    Runs in micro-batches of `token_budget` tokens, in evaluation mode.
    """
    logprobs, entropy = torch.zeros(batch.turn_ids.shape), torch.zeros(batch.turn_ids.shape)
    answers = torch.zeros(len(questions))
    with evaluation_mode(policy.model):
        lengths = batch.lengths.tolist()
        needed = max_over_ranks(len(pack(lengths, token_budget)))  # as many forwards on every rank
        for rows in pack(lengths, token_budget, at_least=needed):
            part = batch.rows(rows).to(policy.device)
            place = {row: i for i, row in enumerate(rows)}
            asked = [n for n, question in enumerate(questions) if question.row in place]
            here = queries_of_rows(rows, questions)
            cache = DynamicCache() if here else None
            stats = token_stats(policy, part.input_ids, part.turn_ids, cache)
            logprobs[rows, : part.turn_ids.shape[1]] = stats.logprobs.cpu()
            entropy[rows, : part.turn_ids.shape[1]] = stats.entropy.cpu()
            if here:
                found = answer_logprobs(policy, cache, here, [place[q.row] for q in here], len(rows))
                answers[asked] = found[: len(asked)]
    return TokenStats(logprobs, entropy), answers
