"""Rollouts of several turns whose actions are of very different length: who is sampled together, what is read again.

Every way plays the same episodes. What is timed is sampled; that the ways agree is seen on greedy episodes, token for
token.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from a2tgpo.engines import huggingface
from a2tgpo.engines.sessions import Prompt, Session
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Completion, Engine, Sampling
from a2tgpo.rollouts.trajectory import Trajectory
from benchmarks import models
from benchmarks.episodes import DrawnLengths, Episodes, rollout, sampling_of_drawn_length
from benchmarks.harness import Benchmark

FLIPPED = {"cpu": 0.1, "cuda": 0.3}
"""Share of greedy episodes that may differ: two ids are now and then equally likely up to rounding, and more often in
the long episodes of a GPU."""


@dataclass(frozen=True)
class Work:
    """A model, its episodes, and how many are sampled side by side."""

    model: str
    episodes: Episodes
    sessions: int
    every_way: bool = True
    """Or only ours and `generate`?"""
    tool_seconds: float = 0.0
    """What a slow tool takes, where that is to be measured."""
    at_least: float = 2.0
    """How many times as long may `generate` over the whole history take?"""


SHORT = Episodes(groups=16, group_size=1, turns=6, prompt=40, action=72, result=40)
LONG_RESULTS = Episodes(groups=2, group_size=2, turns=6, prompt=40, action=24, result=100)
SIZES = {
    "cpu": (
        Work("0.66 M", SHORT, 8, tool_seconds=0.05),
        Work("135 M", LONG_RESULTS, 4, every_way=False, at_least=2.5),
    ),
    "cuda": (
        Work("30 M", replace(SHORT, groups=96, action=48, result=400), 48, tool_seconds=0.05),
        Work("135 M", replace(SHORT, groups=96, action=48, result=400), 48, every_way=False, at_least=2.5),
    ),
}

# ---- The usual ways --------------------------------------------------------------------------------------------------


class ReadAgain(DrawnLengths):
    """Our engine, which reads the whole history again for every action."""

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[Session]:
        """Sessions that know their history."""
        sessions = await super().open(prompt_ids, n)
        for session in sessions:
            session.history = list(prompt_ids)
        return sessions

    async def extend(self, session: Session, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Begin anew, with the history as the prompt."""
        session.history += new_ids
        session.prompt = Prompt(tuple(session.history[:-1]), to_begin=1)
        session.begun, session.states, session.pending = False, None, session.history[-1:]
        completion = await super().extend(session, (), sampling)
        session.history += completion.ids
        return completion


class Generate:
    """Each turn waits for all, reads the whole history again and calls `model.generate` on the padded batch."""

    def __init__(self, episodes: Episodes, max_sessions: int) -> None:
        self.episodes, self.max_sessions = episodes, max_sessions
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
        """Append to the history, and generate once all are waiting."""
        self._open[session] += new_ids
        done = asyncio.get_running_loop().create_future()
        self._waiting[session] = (sampling_of_drawn_length(self.episodes, sampling), done)
        self._run_when_all_wait()
        return await done

    def close(self, session: int) -> None:
        """Forget the session."""
        del self._open[session]
        self._run_when_all_wait()

    def _run_when_all_wait(self) -> None:
        if self._waiting and len(self._waiting) == len(self._open):
            waiting, self._waiting = list(self._waiting.items()), {}
            for i in range(0, len(waiting), self.max_sessions):
                self._generate(waiting[i : i + self.max_sessions])

    @torch.no_grad()
    def _generate(self, waiting: Sequence[tuple[int, tuple[Sampling, asyncio.Future]]]) -> None:
        policy, samplings = self._policy, [sampling for _, (sampling, _) in waiting]
        histories = [self._open[session] for session, _ in waiting]
        width = max(map(len, histories))
        ids = torch.tensor([[policy.pad_id] * (width - len(ids)) + ids for ids in histories], device=policy.device)
        real = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in histories], device=policy.device)
        out = policy.model.generate(
            input_ids=ids,
            attention_mask=real,
            max_new_tokens=max(sampling.max_tokens for sampling in samplings),
            do_sample=not samplings[0].greedy,
            pad_token_id=policy.pad_id,
            **({} if samplings[0].greedy else {"top_k": 0}),
        )
        for (session, (sampling, done)), new in zip(waiting, out[:, width:].tolist(), strict=True):
            own = tuple(new[: sampling.max_tokens])
            self._open[session] += own
            done.set_result(Completion(own, (0.0,) * len(own), "stop"))


def in_step(play: Callable[[], object]) -> object:
    """The same where a batch keeps its rows until all of them have finished."""
    kept, huggingface.KEEP_SHARE = huggingface.KEEP_SHARE, 0.0
    try:
        return play()
    finally:
        huggingface.KEEP_SHARE = kept


# ---- Measured --------------------------------------------------------------------------------------------------------

OURS, AGAIN = "rows join as places come free (ours)", "generate over the whole history"


def measure(bench: Benchmark, works: Sequence[Work]) -> None:
    """Time all ways on each of `works`."""
    for work in works:
        policy = models.load(work.model, bench)
        with models.never_ending(policy):
            _measure(bench, work, policy)


def _measure(bench: Benchmark, work: Work, policy: Policy) -> None:
    joined, free, again = (
        made(work.episodes, work.sessions, deterministic)
        for made, deterministic in ((DrawnLengths, True), (DrawnLengths, False), (ReadAgain, True))
    )
    play = partial(_play, bench, policy, work.episodes)
    ways: dict[str, Callable[..., list[Trajectory]]] = {OURS: partial(play, joined)}
    if work.every_way:
        ways["the same, batches not deterministic"] = partial(play, free)
        ways["a batch until all have finished"] = lambda **how: in_step(partial(play, joined, **how))
        ways["that, and the history read again"] = lambda **how: in_step(partial(play, again, **how))
    ways[AGAIN] = partial(play, Generate(work.episodes, work.sessions))
    joined.take_usage()
    expected = ways[OURS](greedy=True)
    facts = {OURS: {"places taken": joined.take_usage()["engine/places_taken"]}}
    for name in list(ways)[1:]:
        differ = sum(a.token_ids != b.token_ids for a, b in zip(ways[name](greedy=True), expected, strict=True))
        bench.agree(
            f"{work.model}: share of other greedy episodes, {name}", differ / len(expected), FLIPPED[bench.device.type]
        )
    tokens = sum(len(t.token_ids) for t in expected)
    title = f"{work.model}: {len(expected)} episodes of {work.episodes.turns} turns, {tokens} tokens"
    rounds = None if work.every_way else 1
    ratios = bench.compare(f"{title}, {work.sessions} side by side", ways, facts, rounds=rounds)
    bench.goal(f"{work.model}: {AGAIN} over ours", ratios[AGAIN], at_least=work.at_least)
    if work.tool_seconds:
        _slow_tools(bench, work, play, joined, free)


def _play(
    bench: Benchmark, policy: Policy, episodes: Episodes, engine: Engine, greedy: bool = False, seconds: float = 0.0
) -> list[Trajectory]:
    """Greedy episodes are played in fp32, so that they can be compared."""
    played = rollout(engine, episodes, seconds)
    if greedy:
        return played.run(policy, episodes.tasks(), episodes.group_size, (0,), greedy=True)
    with bench.precision():
        return played.run(policy, episodes.tasks(), episodes.group_size, (0,), greedy=False)


def _slow_tools(bench: Benchmark, work: Work, play: Callable[..., list[Trajectory]], *engines: DrawnLengths) -> None:
    names = ("all wait for the slowest tool (ours, deterministic)", "who is there goes on (ours, not deterministic)")
    ways = {name: partial(play, engine, seconds=work.tool_seconds) for name, engine in zip(names, engines, strict=True)}
    fast = {"tools that take no time": partial(play, engines[0])}
    bench.compare(f"{work.model}: tools of {work.tool_seconds:g} s, wall time", fast | ways, wall=True)
