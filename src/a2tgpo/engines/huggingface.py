"""Sampling in process from a Hugging Face model whose cache lives as long as the episode."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from a2tgpo.engines.key_value_rows import KeyValueRows
from a2tgpo.engines.memory_rows import MemoryRows
from a2tgpo.engines.sampling import StopStringMatcher, draw, keyed_uniforms
from a2tgpo.engines.sessions import Prompt, Row, Session, States, Usage
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.sharding import gather
from a2tgpo.rollouts.protocols import Completion, Sampling
from a2tgpo.system.settings import require_all

KEEP_SHARE = 0.75
"""The batch is made anew, without finished rows and with those that wait, once fewer than this share would stay."""
PREFILL_POSITIONS = 16384
"""Positions of prompts or tool results that are read at once, at most; a longer one is read alone."""

Batch = KeyValueRows | MemoryRows
T = TypeVar("T")


class HuggingFaceEngine:
    """Samples for up to `max_sessions` open sessions side by side. A row that has finished its action leaves the batch,
    one whose tool has answered joins it, and the place of a closed session is taken by one that has not begun.

    Rows leave and join together, once they are many. In `deterministic` batches all that have left are waited for, to
    the last tool, which makes batches, and with them every rounding, a function of the seed alone; in others whoever is
    there goes on. So with deterministic batches nobody may hold back one session until another's action is finished.
    The history is never read again: each turn only the tool result and the last sampled token are fed.
    """

    def __init__(self, max_sessions: int, deterministic: bool | str) -> None:
        """`deterministic` may be `auto`: on the CPU."""
        require_all({"max_sessions": max_sessions, "deterministic": deterministic}, "data.engine")
        self.max_sessions, self.deterministic = max_sessions, deterministic
        self.usage = Usage()
        self._policy: Policy | None = None
        self._rows: type[Batch] = KeyValueRows
        self._open: dict[Session, None] = {}
        self._asked: dict[Session, Row] = {}
        """Rows whose action is not finished."""
        self._places = 0
        """Rows that the batch could have had when it was made."""
        self._sampling: asyncio.Task | None = None
        self._changed = asyncio.Event()
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
        self._asked.clear()
        if self._sampling is not None:
            self._sampling.cancel()
        self._sampling = None

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[Session]:
        """`n` sessions that share one reading of `prompt_ids`."""
        prompt = Prompt(tuple(prompt_ids[:-1]), to_begin=n)
        sessions = [Session(prompt, list(prompt_ids[-1:])) for _ in range(n)]
        self._open.update(dict.fromkeys(sessions))
        return sessions

    async def extend(self, session: Session, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Read `new_ids`, then sample until a stop text, the end token or the token limit."""
        session.pending += new_ids
        loop = asyncio.get_running_loop()
        row = Row(session, sampling, keyed_uniforms(sampling.key, sampling.max_tokens), loop.create_future())
        self._asked[session] = row
        if self._sampling is None or self._sampling.done():
            self._changed = asyncio.Event()  # of this event loop
            self._sampling = loop.create_task(self._sample())
        self._changed.set()
        return await row.done

    def close(self, session: Session) -> None:
        """Forget the session; those that waited for it may go on."""
        del self._open[session]
        self._changed.set()

    def take_usage(self) -> dict[str, float]:
        """Share of the rows its steps could have had that they had, and seconds in which it waited for tools, since it
        was asked last."""
        used, self.usage = self.usage, Usage()
        return {"engine/places_taken": used.taken / max(used.places, 1), "seconds/idle": used.idle}

    # ---- who is sampled together -------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        """Sample for all that ask, while a session is open. What goes wrong ends all of them; one is told of it."""
        batch, rows = None, []
        try:
            while self._open:
                if self._is_thin(rows):
                    await self._wait()
                    batch, rows = self._made_anew(batch, rows)
                if any(row.finish is None for row in rows):
                    self._step(batch, rows)
                await asyncio.sleep(0)  # what is finished reaches its tool
        except Exception as error:
            waiting = [row.done for row in self._asked.values() if not row.done.done()]
            if not waiting:
                raise
            waiting[0].set_exception(error)
            for done in waiting[1:]:
                done.cancel()

    def _is_thin(self, rows: Sequence[Row]) -> bool:
        """Would enough change if the batch were made anew?"""
        unfinished = sum(row.finish is None for row in rows)
        joining = 0 if self._is_deterministic else len(self._next())
        return unfinished == 0 or unfinished < KEEP_SHARE * max(len(rows), unfinished + joining)

    @property
    def _is_deterministic(self) -> bool:
        return self._policy.device.type == "cpu" if self.deterministic == "auto" else bool(self.deterministic)

    async def _wait(self) -> None:
        """Until those are there who go on together."""
        began = time.perf_counter()
        while self._open and not self._are_there():
            self._changed.clear()
            await self._changed.wait()
        self.usage.idle += time.perf_counter() - began

    def _are_there(self) -> bool:
        if self._is_deterministic:
            return len(self._asked) == len(self._open)
        return any(row.joined for row in self._asked.values()) or bool(self._next())

    def _next(self) -> list[Row]:
        """Who can join: all that are in the middle of their episode, and as many others as there are places."""
        waiting = [self._asked[session] for session in self._open if session in self._asked]
        places = self.max_sessions - sum(session.begun for session in self._open)
        new = [row for row in waiting if not row.session.begun][:places]
        return [row for row in waiting if row.session.begun and not row.joined] + new

    # ---- sampling ----------------------------------------------------------------------------------------------------

    @torch.no_grad()  # in inference mode autocast would not keep its casts of the weights
    def _made_anew(self, batch: Batch | None, rows: Sequence[Row]) -> tuple[Batch | None, list[Row]]:
        """The batch without its finished rows, and with all that can join, which have the first token of their action
        then."""
        self._places = min(self.max_sessions, len(self._open))
        left, joining = [i for i, row in enumerate(rows) if row.finish is None], self._next()
        made = [rows[i] for i in left]
        if len({row.sampling.greedy for row in made + joining}) > 1:
            raise ValueError("a batch of sessions is either all greedy or all sampled; play them apart")
        self._read_prompts([row.session for row in joining])
        parts = [(batch, left)] if left else []
        for some in _portions(joining, lambda row: len(row.session.pending)):
            parts.append((self._begun(some), range(len(some))))
            made += some
        if not left and len(parts) == 1:
            return parts[0][0], made  # nothing is to be copied
        return self._rows.joined(parts) if parts else None, made

    def _begun(self, rows: Sequence[Row]) -> Batch:
        """A batch of rows that have read what they had to, and have sampled a token."""
        for row in rows:
            row.joined, row.length = True, row.session.cached + len(row.session.pending)
        capacity = max(row.length + row.sampling.max_tokens for row in rows)
        batch = self._rows.of(self._policy, [row.session.states for row in rows], capacity)
        for row in rows:
            row.session.states = None  # they are in the batch
        self._draw(batch, rows, batch.forward([row.session.pending for row in rows], [row.length for row in rows]))
        return batch

    def _read_prompts(self, sessions: Sequence[Session]) -> None:
        new = [session for session in sessions if not session.begun]
        prompts = list({id(s.prompt): s.prompt for s in new if s.prompt.states is None}.values())
        for some in _portions(prompts, lambda prompt: len(prompt.ids)):
            for prompt, read in zip(some, self._rows.read(self._policy, [p.ids for p in some]), strict=True):
                prompt.states = read
        for session in new:
            prompt = session.prompt
            session.begun, session.states, session.cached = True, prompt.states, len(prompt.ids)
            prompt.to_begin -= 1
            if not prompt.to_begin:
                prompt.states = None

    @torch.no_grad()
    def _step(self, batch: Batch, rows: Sequence[Row]) -> None:
        """The next token of every row."""
        unfinished = [row for row in rows if row.finish is None]
        self.usage.places += self._places
        self.usage.taken += len(unfinished)
        for row in unfinished:
            row.length += 1
        self._draw(batch, rows, batch.forward([row.ids[-1:] for row in rows], [row.length for row in rows]))

    def _draw(self, batch: Batch, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Append one token to every unfinished row; a row that it finishes takes its states home.

        Raises FloatingPointError where a log-prob is NaN.
        """
        policy, greedy = self._policy, rows[0].sampling.greedy
        uniforms = [row.uniforms[len(row.ids)] if row.finish is None else 0.0 for row in rows]
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
                    self._hand_over(row, batch.row(i, row.length))

    def _hand_over(self, row: Row, states: States) -> None:
        """A finished action to whoever asked for it."""
        session = row.session
        session.states, session.cached, session.pending = states, row.length, row.ids[-1:]
        del self._asked[session]
        if not row.done.cancelled():  # Ctrl-C arrived while sampling
            row.done.set_result(Completion(tuple(row.ids), tuple(row.logprobs), row.finish))

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


def _portions(items: Sequence[T], length: Callable[[T], int]) -> list[list[T]]:
    """Items of like length together, so many that padded they have at most `PREFILL_POSITIONS`."""
    portions: list[list[T]] = []
    for item in sorted(items, key=length, reverse=True):
        if not portions or (len(portions[-1]) + 1) * length(portions[-1][0]) > PREFILL_POSITIONS:
            portions.append([])
        portions[-1].append(item)
    return portions
