"""Which answers must be scored in which contexts, and how they are scored against the trajectories' cache.

The belief after turn t is the policy's probability of the accepted answer once it has read the tool result of turn t.
All answers of all turns go through the model in one block: each costs its own tokens and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedTokenizerBase

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.thinking import END_THINK, THINK, opened_thought
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.batch import context_states


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
class Question:
    """How likely is this answer after the first `context` tokens of trajectory `row`?"""

    row: int
    context: int
    answer: EncodedAnswer


@dataclass(frozen=True)
class BeliefPlan:
    """The questions of a rollout set, and for every trajectory, belief state and alias the question that answers it."""

    questions: list[Question]
    index: Int[Tensor, "B S A"]
    """S = T+1 belief states (0: query only); −1 where there is none."""

    def spread(
        self, logprobs: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, "B S A"], Bool[Tensor, "B A"], Bool[Tensor, "B S"]]:
        """Answer log-probs by belief state and alias, the alias mask and the state mask."""
        known = self.index >= 0
        padded = torch.cat([logprobs, logprobs.new_zeros(1)])
        return padded[self.index], known.any(1), known.any(2)


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str, wrapper: tuple[str, str]) -> EncodedAnswer:
    """Tokenise wrapper and answer as one text; the answer's tokens are those that overlap its characters.

    Raises ValueError where the answer is blank or no wrapper token precedes it.
    """
    before, after = wrapper
    if not answer.strip():
        raise ValueError("an accepted answer is blank: its belief cannot be scored")
    encoded = tokenizer(before + answer + after, add_special_tokens=False, return_offsets_mapping=True)
    first, last = len(before), len(before) + len(answer)
    span = [i for i, (start, end) in enumerate(encoded.offset_mapping) if start < last and end > first]
    if span[0] == 0:
        raise ValueError(f"data.dialect.answer_wrapper={wrapper!r}: expected text before the answer")
    return EncodedAnswer(tuple(encoded.input_ids[: span[-1] + 1]), span[0])


def continued(wrapper: tuple[str, str], opened: str) -> tuple[str, str]:
    """`wrapper` where the chat template has `opened` a thought: it goes on with that one, or closes it first."""
    before, after = wrapper
    if not opened:
        return wrapper
    own = before.lstrip()
    return (own.removeprefix(THINK).lstrip() if own.startswith(THINK) else f"{END_THINK}\n\n{before}"), after


def plan_beliefs(
    trajectories: Sequence[Trajectory],
    tokenizer: PreTrainedTokenizerBase,
    wrapper: tuple[str, str],
    max_aliases: int,
) -> BeliefPlan:
    """Ask for the first `max_aliases` accepted answers in every context, each distinct context once.

    Raises ValueError where a task has no accepted answer although one is needed.
    """
    states = context_states(trajectories)
    turns = max(len(t.turns) for t in trajectories)
    aliases = max(len(t.task.answers[:max_aliases]) for t in trajectories)
    index = torch.full((len(trajectories), turns + 1, aliases), -1)
    encoded: dict[tuple[str, str], EncodedAnswer] = {}
    known: dict[tuple[int, int], int] = {}
    questions: list[Question] = []
    for row, trajectory in enumerate(trajectories):
        answers = trajectory.task.answers[:max_aliases]
        if max_aliases and not answers:
            raise ValueError(
                f"task {trajectory.task.task_id}: it has no accepted answer, so its turns have no information gain; "
                "expected an answer, or model/signal=none"
            )
        token_ids = trajectory.token_ids
        for state, context in enumerate(trajectory.context_lengths):
            opened = opened_thought(tokenizer, token_ids[:context])
            for alias, answer in enumerate(answers):
                if (answer, opened) not in encoded:
                    encoded[answer, opened] = encode_answer(tokenizer, answer, continued(wrapper, opened))
                key = (states[row][state], alias)
                if key not in known:
                    known[key] = len(questions)
                    questions.append(Question(row, context, encoded[answer, opened]))
                index[row, state, alias] = known[key]
    return BeliefPlan(questions, index)


@dataclass(frozen=True)
class AnswerBlock:
    """Answers laid out row by row behind a batch of cached trajectories.

    A token sees the context of its own question and its own answer up to itself: a rectangular mask over the cache
    and the block.
    """

    ids: Int[Tensor, "B Q"]
    position_ids: Int[Tensor, "B Q"]
    mask: Bool[Tensor, "B 1 Q K"]
    question: Int[Tensor, " P"]
    """For each predicted token the question it belongs to, its row, column of the block that predicts it, and id."""
    row: Int[Tensor, " P"]
    column: Int[Tensor, " P"]
    target: Int[Tensor, " P"]

    def to(self, device: torch.device) -> "AnswerBlock":
        """A copy on `device`."""
        return AnswerBlock(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def build_answer_block(questions: Sequence[Question], rows: Sequence[int], height: int, seen: int) -> AnswerBlock:
    """Place `questions` behind the `height` × `seen` cache of the trajectories; `rows` are their rows in it."""
    end = [0] * height
    starts = []
    for question, row in zip(questions, rows, strict=True):
        starts.append(end[row])
        end[row] += question.answer.n_input_tokens
    width = max(end)
    ids = torch.zeros(height, width, dtype=torch.long)
    position_ids = torch.zeros(height, width, dtype=torch.long)
    mask = torch.zeros(height, 1, width, seen + width, dtype=torch.bool)
    mask[..., 0] = True  # padding must see something, or its softmax is not finite
    picks: list[tuple[int, int, int, int]] = []
    for n, (question, row, start) in enumerate(zip(questions, rows, starts, strict=True)):
        answer, block = question.answer, slice(start, start + question.answer.n_input_tokens)
        ids[row, block] = torch.tensor(answer.ids[:-1])
        position_ids[row, block] = question.context + torch.arange(answer.n_input_tokens)
        mask[row, 0, block, : question.context] = True
        own = torch.ones(answer.n_input_tokens, answer.n_input_tokens, dtype=torch.bool).tril()
        mask[row, 0, block, seen + start : seen + start + answer.n_input_tokens] = own
        picks += [(n, row, start + j - 1, answer.ids[j]) for j in range(answer.start, len(answer.ids))]
    return AnswerBlock(ids, position_ids, mask, *(torch.tensor(pick) for pick in zip(*picks, strict=True)))


def answer_logprobs(
    policy: Policy, cache: Cache, questions: Sequence[Question], rows: Sequence[int], height: int
) -> Float[Tensor, " N"]:
    """Mean log-prob of each question's answer tokens, (1/L) Σ_j log π(a_j | context, a_<j), in fp32 (eq. 2)."""
    block = build_answer_block(questions, rows, height, cache.get_seq_length()).to(policy.device)
    columns, column = block.column.unique(return_inverse=True)
    cached = torch.arange(cache.get_seq_length(), device=policy.device).expand(height, -1)
    key_positions = torch.cat([cached, block.position_ids], dim=1)
    out = policy.model(
        block.ids,
        attention_mask=policy.attention_mask(block.mask, block.position_ids, key_positions),
        position_ids=block.position_ids,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=columns,
    )
    logits = out.logits[block.row, column].float()
    logprobs = logits.gather(-1, block.target[:, None])[:, 0] - logits.logsumexp(-1)
    total = logprobs.new_zeros(len(questions)).index_add(0, block.question, logprobs)
    return (total / torch.bincount(block.question, minlength=len(questions))).cpu()
