"""How much of a gain is rounding: the answers of a few trajectories, scored again in float32."""

from dataclasses import replace

import torch

from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.float32 import computes_in_float32, float32_arithmetic
from a2tgpo.scoring.score import Scored, read
from a2tgpo.system.distributed import gather, max_over_ranks

SAMPLE = 16
"""Trajectories of a rank that are scored again, at most."""


def log_gain_noise(policy: Policy, scored: Scored, token_budget: int) -> float | None:
    """Rounding error (nats, root mean square over all ranks) of the change of an answer's log-prob over a turn.

    0 for a policy that computes in float32; None where no answer was scored before and after a turn.
    """
    if computes_in_float32(policy):
        return 0.0
    squares = torch.cat(gather(_errors(policy, scored, token_budget).square()))
    return float(squares.mean().sqrt()) if len(squares) else None


def _errors(policy: Policy, scored: Scored, token_budget: int) -> torch.Tensor:
    """Of each scored answer and turn of the sample. A rank without any reads a row, since reading is a joint call."""
    index = scored.plan.index
    has_gain = (index[:, 1:] >= 0) & (index[:, :-1] >= 0)
    sample = has_gain.flatten(1).any(1).nonzero()[:SAMPLE, 0]
    numbers = index[sample][index[sample] >= 0].unique().tolist()
    if not max_over_ranks(len(numbers)):
        return torch.zeros(0)
    rows = sorted({scored.plan.queries[n].row for n in numbers}) or [0]  # an equal context is scored in its first row
    queries = [replace(query := scored.plan.queries[n], row=rows.index(query.row)) for n in numbers]
    with float32_arithmetic(policy):
        reading = read(policy, scored.batch.rows(rows), queries, token_budget, with_entropy=False)
    exact = torch.zeros(len(scored.plan.queries))
    exact[numbers] = reading.answer_logprobs
    error = scored.observed.answer_logprob[sample] - exact[index[sample]]
    return (error[:, 1:] - error[:, :-1])[has_gain[sample]]
