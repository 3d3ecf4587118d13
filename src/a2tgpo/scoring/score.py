"""Log-probs of actions and beliefs of contexts, one cached pass per model.

An ordinary causal forward over the trajectories yields the log-probs of their actions; its cache then serves the
answers of all belief states in one block, or `segments` reads once more where the model has a memory of another kind.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache

from a2tgpo.method.turns import Observed
from a2tgpo.policies.policy import Policy, evaluation_mode
from a2tgpo.policies.sharding import gather, scatter
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.batch import RolloutBatch, collate, micro_batches, token_positions
from a2tgpo.scoring.beliefs import (
    AnswerQuery,
    BeliefPlan,
    EncodedAnswer,
    answer_logprobs,
    build_answer_block,
    plan_beliefs,
)
from a2tgpo.scoring.projection import predict
from a2tgpo.scoring.segments import answer_logprobs_by_segments
from a2tgpo.scoring.without_turns import place, plan_without_turns
from a2tgpo.system.distributed import max_over_ranks
from a2tgpo.system.progress import Told, nobody


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
    """log π(y_l | y_<l) of every action token at the policy's temperature, in fp32, and the entropy beside it (without
    gradient; 0 unless wanted).

    Only positions that predict an action token are projected to the vocabulary. Padding is on the right, where causal
    attention keeps it out of sight. `cache` is filled on the way.
    """
    row, column = (turn_ids >= 0).nonzero(as_tuple=True)
    logprobs, entropy = predict(
        policy,
        row,
        column - 1,
        input_ids[row, column],
        input_ids,
        temperature=policy.temperature,
        with_entropy=with_entropy,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    zeros = logprobs.new_zeros(turn_ids.shape)
    return TokenStats(zeros.index_put((row, column), logprobs), zeros.index_put((row, column), entropy))


def queries_of_rows(rows: Sequence[int], queries: Sequence[AnswerQuery], asked: bool) -> list[AnswerQuery]:
    """The queries about these rows. Where there are none, but queries are `asked` on any rank, one that nobody asked,
    for the same number of forward passes on every rank."""
    own = [query for query in queries if query.row in rows]
    return own or [AnswerQuery(rows[0], 1, EncodedAnswer((0, 0), 1))] * asked


@dataclass(frozen=True)
class Reading:
    """What one cached pass over a batch found, on the CPU."""

    tokens: TokenStats
    answer_logprobs: Float[Tensor, " N"]
    """Mean log-prob (nats) of each query's answer tokens."""
    positions: Counter[str]
    """Token positions that went through the model: `forwarded`, and of them `useful`, neither padding nor unasked."""


@torch.no_grad()
def read(
    policy: Policy,
    batch: RolloutBatch,
    queries: Sequence[AnswerQuery],
    token_budget: int,
    mini_batches: Sequence[Sequence[int]] = (),
    with_entropy: bool = True,
    told: Told = nobody,
) -> Reading:
    """Token statistics of the whole batch and the answer log-prob of each query, in one cached pass.

    Runs in micro-batches of `token_budget` tokens, cut as `micro_batches` does, in evaluation mode; `told` hears how
    many of them are done. A joint call of all ranks, which go forward equally often; but where memory is read by
    segments, all weights are gathered for it.
    """
    logprobs, entropy = torch.zeros(batch.turn_ids.shape), torch.zeros(batch.turn_ids.shape)
    answers, positions = torch.zeros(len(queries)), Counter[str]()
    lengths, asked_anywhere = batch.lengths.tolist(), max_over_ranks(len(queries)) > 0
    if policy.reads != "block":
        gather(policy.model)
    with evaluation_mode(policy.model):
        parts = micro_batches(lengths, token_budget, mini_batches)
        for n_done, own in enumerate(parts, 1):
            rows = own or [0]  # once more, for as many passes as the other ranks make
            part = batch.rows(rows).to(policy.device)
            place = {row: i for i, row in enumerate(rows)}
            asked = [n for n, query in enumerate(queries) if query.row in place]
            here = queries_of_rows(rows, queries, asked_anywhere)
            cache = DynamicCache() if here and policy.reads == "block" else None
            stats = token_stats(policy, part.input_ids, part.turn_ids, cache, with_entropy)
            logprobs[rows, : part.turn_ids.shape[1]] = stats.logprobs.cpu()
            entropy[rows, : part.turn_ids.shape[1]] = stats.entropy.cpu()
            positions.update(token_positions(lengths, [own]))
            if cache is not None:
                asked_rows = sorted({place[query.row] for query in here})
                cache.batch_select_indices(torch.tensor(asked_rows, device=policy.device))
                places = [asked_rows.index(place[query.row]) for query in here]
                seen = cache.get_seq_length()
                block = build_answer_block(here, places, len(asked_rows), seen, policy.device)
                answers[asked] = answer_logprobs(policy, cache, block)[: len(asked)]
                read_tokens = sum(queries[n].answer.n_input_tokens for n in asked)
                positions.update(forwarded=block.ids.numel(), useful=read_tokens)
            elif here:
                here = [replace(query, row=place[query.row]) for query in here]
                found, further = answer_logprobs_by_segments(policy, part.input_ids, here, token_budget)
                answers[asked] = found[: len(asked)]
                positions.update(further)
            told(n_done, len(parts))
    scatter(policy.model)
    return Reading(TokenStats(logprobs, entropy), answers, positions)


def observe(
    trajectories: Sequence[Trajectory],
    batch: RolloutBatch,
    answer_logprob: Float[Tensor, "B S A"],
    alias_mask: Bool[Tensor, "B A"],
    state_mask: Bool[Tensor, "B S"],
) -> Observed:
    """What signals see of `trajectories`, whose collated form is `batch`, with these beliefs; S = T+1."""
    return Observed(
        trajectories=trajectories,
        turn_mask=batch.turn_mask,
        process_mask=batch.process_mask,
        answer_logprob=answer_logprob,
        alias_mask=alias_mask,
        state_mask=state_mask,
        outcome=batch.outcome,
        group_ids=batch.group_ids,
        state_ids=batch.state_ids,
        node_ids=batch.context_ids[:, 1:],
        action_ids=batch.action_ids,
        n_new_pieces=batch.n_new_pieces,
        value=_values(trajectories, batch.turn_mask.shape[1]),
    )


def _values(trajectories: Sequence[Trajectory], n_turns: int) -> Float[Tensor, "B S"] | None:
    if not all(trajectory.values for trajectory in trajectories):
        return None
    return torch.tensor([[*t.values, *[0.0] * (n_turns + 1 - len(t.values))] for t in trajectories])


@dataclass(frozen=True)
class Scored:
    """A rollout set with old log-probs, and what the method needs to assign credit to its turns."""

    batch: RolloutBatch
    observed: Observed
    entropy: Float[Tensor, "B L"]
    positions: Counter[str]
    plan: BeliefPlan
    """Which answers were scored, and where."""


def score(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    answers: Callable[[Task], Sequence[str]],
    answer_wrapper: tuple[str, str],
    token_budget: int,
    *,
    mini_batches: Sequence[Sequence[int]] = (),
    reference: Policy | None = None,
    by_reference: bool = False,
    without_turns: bool = False,
    told: Told = nobody,
) -> Scored:
    """Old log-probs and the beliefs in the `answers` of each trajectory's task, written inside `answer_wrapper`.

    A `reference` is read beside the policy, and with `by_reference` the beliefs are its own. `without_turns` asks for
    the beliefs at the end without each process turn, too: a further row of tokens for each.
    `mini_batches` are the rows of each optimizer step, where there are several: every token is then scored in the very
    micro-batch in which it will be trained, and the first ratio is 1 also where roundings depend on a batch's shape.
    `told` hears how far each pass is.
    """
    batch = collate(trajectories, policy.pad_id)
    plan = plan_beliefs(trajectories, batch.context_ids, policy.tokenizer, answer_wrapper, answers)
    reading = read(policy, batch, [] if by_reference else plan.queries, token_budget, mini_batches, told=told)
    batch, believed, positions = replace(batch, old_logprobs=reading.tokens.logprobs), reading, reading.positions
    if reference is not None:
        asked = plan.queries if by_reference else []
        second = read(reference, batch, asked, token_budget, mini_batches, with_entropy=False, told=told)
        batch, positions = replace(batch, ref_logprobs=second.tokens.logprobs), positions + second.positions
        believed = second if by_reference else reading
    observed = observe(trajectories, batch, *plan.scatter(believed.answer_logprobs))
    if without_turns:
        rows, asked = plan_without_turns(policy, trajectories, answers, answer_wrapper)
        third = read(policy, rows, asked.queries, token_budget, with_entropy=False, told=told)
        without, positions = place(trajectories, asked, third.answer_logprobs), positions + third.positions
        observed = replace(observed, answer_logprob_without=without)
    return Scored(batch, observed, reading.tokens.entropy, positions, plan)
