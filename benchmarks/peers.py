"""The usual ways of doing what the project does with a cache: what it is measured against."""

import asyncio
from collections.abc import Sequence

import torch
from torch import Tensor

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Completion, Sampling
from a2tgpo.rollouts.trajectory import Trajectory
from a2tgpo.scoring.beliefs import AnswerQuery


class GenerateEngine:
    """Each turn reads the whole history again and calls `model.generate` on the padded batch. Greedy only."""

    def __init__(self) -> None:
        self._open: dict[int, list[int]] = {}
        self._waiting: dict[int, tuple[Sampling, asyncio.Future]] = {}

    def sync(self, policy: Policy) -> None:
        """Sample from `policy`."""
        self._policy = policy

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[int]:
        """`n` sessions, each with a history of its own."""
        first = max(self._open, default=-1) + 1
        self._open |= {first + i: list(prompt_ids) for i in range(n)}
        return list(range(first, first + n))

    async def extend(self, session: int, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Append to the history and generate."""
        self._open[session] += new_ids
        done = asyncio.get_running_loop().create_future()
        self._waiting[session] = (sampling, done)
        self._run_when_all_wait()
        return await done

    def close(self, session: int) -> None:
        """Forget the session."""
        del self._open[session]
        self._run_when_all_wait()

    def _run_when_all_wait(self) -> None:
        if self._waiting and len(self._waiting) == len(self._open):
            waiting, self._waiting = self._waiting, {}
            self._generate(waiting)

    @torch.inference_mode()
    def _generate(self, waiting: dict[int, tuple[Sampling, asyncio.Future]]) -> None:
        tokenizer = self._policy.tokenizer
        sampling = next(iter(waiting.values()))[0]
        histories = [self._open[session] for session in waiting]
        padded = tokenizer.pad({"input_ids": histories}, padding_side="left", return_tensors="pt")
        out = self._policy.model.generate(
            **padded,
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            stop_strings=list(sampling.stop_strings),
            tokenizer=tokenizer,
            pad_token_id=tokenizer.pad_token_id,
        )
        for row, (session, (_, done)) in enumerate(waiting.items()):
            new = out[row, padded["input_ids"].shape[1] :].tolist()
            ids = tuple(new[: new.index(tokenizer.pad_token_id)] if tokenizer.pad_token_id in new else new)
            self._open[session] += ids
            finish = "eos" if ids[-1] == tokenizer.eos_token_id else "stop"
            if len(ids) == sampling.max_tokens and not tokenizer.decode(ids).endswith(tuple(sampling.stop_strings)):
                finish = "length"
            done.set_result(Completion(ids, (0.0,) * len(ids), finish))


def _mean_answer_logprobs(policy: Policy, rows: Sequence[tuple[Trajectory, AnswerQuery]]) -> Tensor:
    """Mean answer log-probs from one padded forward over context + answer, one row a query."""
    texts = [[*t.token_ids[: q.context], *q.answer.ids] for t, q in rows]
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    logprobs = policy.model(ids).logits.float().log_softmax(-1)
    means = []
    for row, (text, (_, query)) in enumerate(zip(texts, rows, strict=True)):
        span = range(query.context + query.answer.start, len(text))
        means.append(torch.stack([logprobs[row, i - 1, text[i]] for i in span]).mean())
    return torch.stack(means)


@torch.no_grad()
def beliefs_prefix_by_prefix(policy: Policy, trajectories: Sequence[Trajectory], queries: list[AnswerQuery]) -> Tensor:
    """One forward per belief state index: all prefixes after turn t in a batch, each read from the start."""
    by_state: dict[int, list[int]] = {}
    for n, query in enumerate(queries):
        by_state.setdefault(trajectories[query.row].context_lengths.index(query.context), []).append(n)
    result = torch.zeros(len(queries))
    for members in by_state.values():
        rows = [(trajectories[queries[n].row], queries[n]) for n in members]
        result[members] = _mean_answer_logprobs(policy, rows)
    return result


@torch.no_grad()
def beliefs_all_prefixes(policy: Policy, trajectories: Sequence[Trajectory], queries: list[AnswerQuery]) -> Tensor:
    """All prefixes of all turns padded to the longest, in batches of the trajectories' count."""
    size = len(trajectories)
    parts = [
        _mean_answer_logprobs(policy, [(trajectories[q.row], q) for q in queries[i : i + size]])
        for i in range(0, len(queries), size)
    ]
    return torch.cat(parts)
