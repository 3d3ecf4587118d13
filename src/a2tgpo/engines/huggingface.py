"""Sampling in process from a Hugging Face model whose cache lives as long as the episode."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from a2tgpo.engines.key_value_rows import KeyValueRows
from a2tgpo.engines.memory_rows import MemoryRows
from a2tgpo.engines.row_cache import LayerStates
from a2tgpo.engines.sampling import StopStringMatcher, draw, keyed_uniforms
from a2tgpo.policies.memory import Memory
from a2tgpo.policies.policy import Policy, evaluation_mode
from a2tgpo.policies.sharding import gather
from a2tgpo.rollouts.protocols import Completion, Sampling

KEEP_SHARE = 0.75
"""Finished rows are dropped from the running batch once fewer than this share of its rows is unfinished."""

Batch = KeyValueRows | MemoryRows
States = list[LayerStates] | Memory


@dataclass(eq=False)
class Prompt:
    """A prompt but for its last token, read once for all sessions of its group."""

    ids: tuple[int, ...]
    states: States | None = None


@dataclass(eq=False)
class Session:
    """One episode as the engine sees it: what the model keeps of it, and which tokens still have to be read."""

    prompt: Prompt
    pending: list[int]
    states: States | None = None
    cached: int = 0
    """Number of tokens in `states`."""


@dataclass
class Row:
    """A session while an action is being sampled for it."""

    session: Session
    sampling: Sampling
    uniforms: np.ndarray
    done: asyncio.Future
    length: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None


class HuggingFaceEngine:
    """Samples for all open sessions in step: runs as soon as every one of them waits for an action.

    Waiting for all makes the batches, and with them every rounding, a function of the seed alone. The history is
    never read again: each turn only the tool result and the last sampled token are fed.
    """

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._rows: type[Batch] = KeyValueRows
        self._open: dict[Session, None] = {}
        self._waiting: dict[Session, Row] = {}
        self._matchers: dict[tuple[str, ...], StopStringMatcher] = {}

    def sync(self, policy: Policy) -> None:
        """Sample from `policy`, whose weights are read in place, gathered where they are sharded; sessions of an
        interrupted rollout are dropped."""
        gather(policy.model)
        if self._policy is None or policy.tokenizer is not self._policy.tokenizer:
            self._matchers.clear()
        self._policy = policy
        self._rows = KeyValueRows if policy.reads == "block" else MemoryRows
        self._open.clear()
        self._waiting.clear()

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[Session]:
        """`n` sessions that share one reading of `prompt_ids`."""
        prompt = Prompt(tuple(prompt_ids[:-1]))
        sessions = [Session(prompt, list(prompt_ids[-1:])) for _ in range(n)]
        self._open.update(dict.fromkeys(sessions))
        return sessions

    async def extend(self, session: Session, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Read `new_ids`, then sample until a stop text, the end token or the token limit."""
        session.pending += new_ids
        done = asyncio.get_running_loop().create_future()
        self._waiting[session] = Row(session, sampling, keyed_uniforms(sampling.key, sampling.max_tokens), done)
        self._run_when_all_wait()
        return await done

    def close(self, session: Session) -> None:
        """Forget the session; those that waited for it may go on."""
        del self._open[session]
        self._run_when_all_wait()

    def _run_when_all_wait(self) -> None:
        if self._waiting and len(self._waiting) == len(self._open):
            rows = [self._waiting[session] for session in self._open]
            self._waiting.clear()
            if len({row.sampling.greedy for row in rows}) > 1:
                raise ValueError("a batch of sessions is either all greedy or all sampled; play them apart")
            self._run(rows)

    @torch.no_grad()  # in inference mode autocast would not keep its casts of the weights
    def _run(self, rows: list[Row]) -> None:
        with evaluation_mode(self._policy.model):
            self._read_prompts([row.session for row in rows])
            self._sample(rows)
        for row in rows:
            if not row.done.cancelled():  # Ctrl-C arrived while sampling
                row.done.set_result(Completion(tuple(row.ids), tuple(row.logprobs), row.finish))

    def _read_prompts(self, sessions: list[Session]) -> None:
        new = [session for session in sessions if session.states is None]
        prompts = list({id(s.prompt): s.prompt for s in new if s.prompt.states is None}.values())
        if prompts:
            states = self._rows.read(self._policy, [prompt.ids for prompt in prompts])
            for prompt, read in zip(prompts, states, strict=True):
                prompt.states = read
        for session in new:
            session.states, session.cached = session.prompt.states, len(session.prompt.ids)

    def _sample(self, rows: list[Row]) -> None:
        for row in rows:
            row.length = row.session.cached + len(row.session.pending)
        max_tokens = max(row.sampling.max_tokens for row in rows)
        capacity = max(row.length for row in rows) + max_tokens
        batch = self._rows(self._policy, [row.session.states for row in rows], capacity)
        new_ids = [row.session.pending for row in rows]
        for step in range(max_tokens):
            logits = batch.forward(new_ids, [row.length for row in rows])
            self._draw(batch, rows, logits, step)
            unfinished = [i for i, row in enumerate(rows) if row.finish is None]
            if not unfinished:
                return
            if len(unfinished) < KEEP_SHARE * len(rows):
                batch.keep(torch.tensor(unfinished, device=logits.device))
                rows = [rows[i] for i in unfinished]
            for row in rows:
                row.length += 1
            new_ids = [row.ids[-1:] for row in rows]

    def _draw(self, batch: Batch, rows: list[Row], logits: torch.Tensor, step: int) -> None:
        """Append one token to every unfinished row; a row that it finishes takes its states home.

        Raises FloatingPointError where a log-prob is NaN.
        """
        policy, greedy = self._policy, rows[0].sampling.greedy
        uniforms = [row.uniforms[step] if row.finish is None else 0.0 for row in rows]
        uniforms = torch.tensor(uniforms, device=logits.device)
        ids, logprobs = draw(logits, uniforms, greedy, policy.temperature, policy.top_p)
        for i, (row, token, logprob) in enumerate(zip(rows, ids.tolist(), logprobs.tolist(), strict=True)):
            if row.finish is None:
                if math.isnan(logprob):
                    raise FloatingPointError("the policy's log-probs are NaN, so its weights are; expected finite ones")
                row.ids.append(token)
                row.logprobs.append(logprob)
                row.finish = self._finish(row)
                if row.finish is not None:
                    row.session.states, row.session.cached = batch.row(i, row.length), row.length
                    row.session.pending = [token]

    def _finish(self, row: Row) -> str | None:
        """What ended the action, None while it goes on."""
        if row.ids[-1] in self._policy.end_ids:
            return "eos"
        if self._matcher(tuple(row.sampling.stop_strings)).complete(row.ids):
            return "stop"
        return "length" if len(row.ids) == row.sampling.max_tokens else None

    def _matcher(self, stop_strings: tuple[str, ...]) -> StopStringMatcher:
        if stop_strings not in self._matchers:
            self._matchers[stop_strings] = StopStringMatcher(self._policy.tokenizer, stop_strings)
        return self._matchers[stop_strings]
