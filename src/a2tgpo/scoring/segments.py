"""Beliefs of models that read on only from the end of what they have read: segment by segment, answers on copies."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.policies.memory import Memory, fresh, read, strides
from a2tgpo.policies.policy import Policy
from a2tgpo.scoring.beliefs import AnswerQuery, EncodedAnswer
from a2tgpo.scoring.float32 import float32_arithmetic
from a2tgpo.scoring.projection import predict


def answer_logprobs_by_segments(
    policy: Policy, input_ids: Int[Tensor, "B L"], queries: Sequence[AnswerQuery], token_budget: int
) -> tuple[Float[Tensor, " N"], Counter[str]]:
    """Mean log-prob of each query's answer tokens (eq. 2), and the positions that were computed (`token_positions`).

    All trajectories are read side by side from one asked context to the next. A stretch with which several begin is
    read once, and what lies behind the last asked context never. Copies of the memory, of `token_budget` tokens at a
    time, read the answers.
    """
    texts = [tuple(row) for row in input_ids.tolist()]
    logprobs, positions = torch.zeros(len(queries)), Counter[str]()
    start, memory, place = 0, fresh(policy, 1), {(): 0}
    for end in sorted({query.context for query in queries}):
        begun = {texts[query.row][:end]: None for query in queries if query.context >= end}
        memory = memory.rows([place[text[:start]] for text in begun])
        segment = torch.tensor([text[start:] for text in begun], device=policy.device)
        _, memory = read(policy, segment, memory)
        positions.update(forwarded=segment.numel(), useful=segment.numel())
        start, place = end, {text: i for i, text in enumerate(begun)}
        asked = [n for n, query in enumerate(queries) if query.context == end]
        at_once = max(1, token_budget // (end + max(queries[n].answer.n_input_tokens for n in asked)))
        for some in (asked[i : i + at_once] for i in range(0, len(asked), at_once)):
            copies = memory.rows([place[texts[queries[n].row][:end]] for n in some])
            answers = [queries[n].answer for n in some]
            logprobs[some] = _answer_logprobs(policy, copies, answers)
            lengths = [answer.n_input_tokens for answer in answers]
            positions.update(forwarded=len(some) * max(lengths), useful=sum(lengths))
    return logprobs, positions


def _answer_logprobs(policy: Policy, memory: Memory, answers: Sequence[EncodedAnswer]) -> Float[Tensor, " N"]:
    """One answer a row of `memory`, which is used up. Padding is on the right, where nothing comes after it."""
    width = max(answer.n_input_tokens for answer in answers)
    ids = torch.tensor([answer.ids[:-1] + (0,) * (width - answer.n_input_tokens) for answer in answers])
    picks = [(n, j - 1, a.ids[j]) for n, a in enumerate(answers) for j in range(a.start, len(a.ids))]
    row, column, target = torch.tensor(picks).T
    total = torch.zeros(len(answers))
    for part in strides(policy, memory, width):
        here = (column >= part.start) & (column < part.stop)
        piece, wanted = ids[:, part].to(policy.device), target[here].to(policy.device)
        options = memory.options(policy, piece.shape[1])
        with float32_arithmetic(policy):
            logprobs, _ = predict(policy, row[here], column[here] - part.start, wanted, piece, **options)
        total.index_add_(0, row[here], logprobs.cpu())
        memory = memory.after(piece.shape[1])
    return total / torch.bincount(row)
