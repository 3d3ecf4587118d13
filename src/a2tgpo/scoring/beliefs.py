"""Which answers must be scored in which contexts, and how they are scored against the trajectories' cache.

The belief after turn t is the policy's probability of the accepted answer once it has read the tool result of turn t.
All answers of all turns go through the model in one block: each costs its own tokens and nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedTokenizerBase

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import encode_quoting
from a2tgpo.rollouts.thinking import THINK, gone_on_with, opened_thought
from a2tgpo.rollouts.trajectory import Task, Trajectory
from a2tgpo.scoring.float32 import float32_arithmetic
from a2tgpo.scoring.projection import predict


@dataclass(frozen=True)
class EncodedAnswer:
    """A wrapped answer up to its last token: `ids[start:]` are the answer's own tokens."""

    ids: tuple[int, ...]
    start: int

    @property
    def n_input_tokens(self) -> int:
        """Tokens that must be read to predict the answer: all but the last."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class AnswerQuery:
    """How likely is this answer after the first `context` tokens of trajectory `row`?"""

    row: int
    context: int
    answer: EncodedAnswer


@dataclass(frozen=True)
class BeliefPlan:
    """The queries of a rollout set, and for every trajectory, belief state and alias the query that answers it."""

    queries: list[AnswerQuery]
    index: Int[Tensor, "B S A"]
    """S = T+1 belief states (0: query only); −1 where there is none."""

    def scatter(
        self, logprobs: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, "B S A"], Bool[Tensor, "B A"], Bool[Tensor, "B S"]]:
        """Answer log-probs by belief state and alias, the alias mask and the state mask."""
        known = self.index >= 0
        padded = torch.cat([logprobs, logprobs.new_zeros(1)])
        return padded[self.index], known.any(1), known.any(2)


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str, wrapper: tuple[str, str]) -> EncodedAnswer:
    """Tokenise wrapper and answer as one text; the answer's tokens are those that overlap its characters, and special
    tokens that it spells out are split.

    Raises ValueError where the answer is blank or no wrapper token precedes it.
    """
    before, after = wrapper
    if not answer.strip():
        raise ValueError("an accepted answer is blank: its belief cannot be scored")
    first, last = len(before), len(before) + len(answer)
    ids, offsets = encode_quoting(tokenizer, before + answer + after, [(first, last)])
    span = [i for i, (start, end) in enumerate(offsets) if start < last and end > first]
    if span[0] == 0:
        raise ValueError(f"data.dialect.answer_wrapper={wrapper!r}: expected text before the answer")
    return EncodedAnswer(ids[: span[-1] + 1], span[0])


def continued(wrapper: tuple[str, str], opened: str) -> tuple[str, str]:
    """`wrapper` where prompt or chat template has `opened` a thought."""
    return gone_on_with(wrapper[0], opened), wrapper[1]


def require_context_length(
    policy: Policy,
    tasks: Iterable[Task],
    answers: Callable[[Task], Sequence[str]],
    wrapper: tuple[str, str],
    max_sequence_tokens: int,
) -> None:
    """Raises ValueError where an answer behind `max_sequence_tokens` would go past the policy's last position; says
    how many tasks have one and the longest."""
    ways = (wrapper, continued(wrapper, THINK))  # a template may have opened a thought
    too_long: dict[str, int] = {}
    for task in tasks:
        lengths = [encode_answer(policy.tokenizer, a, w).n_input_tokens for a in answers(task) for w in ways]
        needed = max_sequence_tokens + max(lengths, default=0)
        if needed > policy.max_length:
            too_long[task.task_id] = needed
    if too_long:
        longest = max(too_long, key=too_long.__getitem__)
        raise ValueError(
            "data.module.max_prompt_tokens, data.module.max_response_tokens: tasks with an accepted answer that is too "
            f"long: {len(too_long)}; a trajectory at both limits and the answer of the longest, {longest}, behind it "
            f"need {too_long[longest]} positions; expected at most the {policy.max_length} of the model"
        )


def plan_beliefs(
    trajectories: Sequence[Trajectory],
    context_ids: Int[Tensor, "B S"],
    tokenizer: PreTrainedTokenizerBase,
    wrapper: tuple[str, str],
    answers: Callable[[Task], Sequence[str]],
) -> BeliefPlan:
    """Ask for the `answers` of its task in every belief state of every trajectory, each distinct context once.

    Raises what `answers` raises, and ValueError where an answer cannot be encoded.
    """
    contexts = context_ids.tolist()
    asked = [tuple(answers(trajectory.task)) for trajectory in trajectories]
    index = torch.full((*context_ids.shape, max(map(len, asked))), -1)
    encoded: dict[tuple[str, str], EncodedAnswer] = {}
    known: dict[tuple[int, int], int] = {}
    queries: list[AnswerQuery] = []
    for row, trajectory in enumerate(trajectories):
        token_ids = trajectory.token_ids
        for state, context in enumerate(trajectory.context_lengths):
            opened = opened_thought(tokenizer, token_ids[:context])
            for alias, answer in enumerate(asked[row]):
                if (answer, opened) not in encoded:
                    encoded[answer, opened] = encode_answer(tokenizer, answer, continued(wrapper, opened))
                key = (contexts[row][state], alias)
                if key not in known:
                    known[key] = len(queries)
                    queries.append(AnswerQuery(row, context, encoded[answer, opened]))
                index[row, state, alias] = known[key]
    return BeliefPlan(queries, index)


@dataclass(frozen=True)
class AnswerBlock:
    """Answers laid out row by row behind a batch of cached trajectories.

    A token sees the context of its own query and its own answer up to itself: a rectangular mask over the cache
    and the block.
    """

    ids: Int[Tensor, "B Q"]
    position_ids: Int[Tensor, "B Q"]
    mask: Bool[Tensor, "B 1 Q K"]
    query: Int[Tensor, " P"]
    """For each predicted token the query it belongs to, its row, column of the block that predicts it, and id."""
    row: Int[Tensor, " P"]
    column: Int[Tensor, " P"]
    target: Int[Tensor, " P"]


def build_answer_block(
    queries: Sequence[AnswerQuery], rows: Sequence[int], height: int, seen: int, device: torch.device
) -> AnswerBlock:
    """Place `queries` behind the `height` × `seen` cache of the trajectories; `rows` are their rows in it."""
    end = [0] * height
    starts = []
    for query, row in zip(queries, rows, strict=True):
        starts.append(end[row])
        end[row] += query.answer.n_input_tokens
    width = max(end)
    ids, position_ids, context, first = torch.zeros(4, height, width, dtype=torch.long)
    picks: list[tuple[int, int, int, int]] = []
    for n, (query, row, start) in enumerate(zip(queries, rows, starts, strict=True)):
        answer, block = query.answer, slice(start, start + query.answer.n_input_tokens)
        ids[row, block] = torch.tensor(answer.ids[:-1])
        position_ids[row, block] = query.context + torch.arange(answer.n_input_tokens)
        context[row, block], first[row, block] = query.context, seen + start
        picks += [(n, row, start + j - 1, answer.ids[j]) for j in range(answer.start, len(answer.ids))]
    mask = _mask(context.to(device), first.to(device), seen)
    picked = (torch.tensor(pick, device=device) for pick in zip(*picks, strict=True))
    return AnswerBlock(ids.to(device), position_ids.to(device), mask, *picked)


def _mask(context: Int[Tensor, "B Q"], first: Int[Tensor, "B Q"], seen: int) -> Bool[Tensor, "B 1 Q K"]:
    """A token sees its `context`, and of the block behind what is `seen` all from the `first` of its answer to itself;
    padding, whose softmax must be finite, all up to itself. Made where it is used, for the rest of a block is small."""
    width = context.shape[1]
    key = torch.arange(seen + width, device=context.device)
    query = seen + torch.arange(width, device=context.device)[:, None]
    return ((key < context[..., None]) | (key >= first[..., None]) & (key <= query))[:, None]


def answer_logprobs(policy: Policy, cache: Cache, block: AnswerBlock) -> Float[Tensor, " N"]:
    """Mean log-prob of each query's answer tokens, (1/L) Σ_j log π(a_j | context, a_<j), at temperature 1, computed in
    fp32 (eq. 2)."""
    cached = torch.arange(cache.get_seq_length(), device=policy.device).expand(len(block.ids), -1)
    key_positions = torch.cat([cached, block.position_ids], dim=1)
    with float32_arithmetic(policy):
        logprobs, _ = predict(
            policy,
            block.row,
            block.column,
            block.target,
            block.ids,
            attention_mask=policy.attention_mask(block.mask, block.position_ids, key_positions),
            position_ids=block.position_ids,
            past_key_values=cache,
            use_cache=True,
        )
    n_tokens = torch.bincount(block.query)
    return (logprobs.new_zeros(len(n_tokens)).index_add(0, block.query, logprobs) / n_tokens).cpu()
