"""Rollouts of several turns whose actions are of very different length: who is sampled together, and what a tool costs.

    python benchmarks/rollouts.py                                 # the embedded policy
    python benchmarks/rollouts.py --model .cache/models/smollm2   # another one

Every way plays the same episodes in turn, `--rounds` times: log-normal action lengths, six turns of actions, results of
forty tokens. Trajectories must agree token for token before anything is timed.
"""

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from a2tgpo.engines import huggingface
from a2tgpo.engines.huggingface import HuggingFaceEngine, Prompt, Session
from a2tgpo.policies.policy import Policy
from a2tgpo.policies.pretrained import load_policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.protocols import Completion, Sampling, StepResult
from a2tgpo.rollouts.rewards.outcome import OutcomeReward
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory
from a2tgpo.system.process import configure_process

TURNS, RESULT, PROMPT = 6, 40, 40
"""Actions of an episode; tokens of a result and of a prompt, about."""


class Talk:
    """Six actions, each answered by a text, after `seconds`."""

    stop_strings = ()
    deterministic = True

    def __init__(self, task: Task, seconds: float) -> None:
        self.task, self.seconds, self.heard = task, seconds, 0

    def prompt(self) -> str:
        return " the" * PROMPT + self.task.question

    def step(self, action_text: str) -> StepResult:
        self.heard += 1
        time.sleep(self.seconds)
        return StepResult(stop=StopReason.ANSWERED) if self.heard == TURNS else StepResult(" the" * RESULT)

    def state(self) -> None:
        return None

    def finish(self, stop: StopReason) -> dict[str, float]:
        return {"success": 0.0}


class DrawnLengths(HuggingFaceEngine):
    """Actions of log-normal length with a median of a quarter of the most, keyed as the noise is."""

    async def extend(self, session: Session, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        drawn = math.exp(0.8 * np.random.default_rng(sampling.key).standard_normal()) * sampling.max_tokens / 4
        limited = replace(sampling, max_tokens=min(max(int(drawn), 2), sampling.max_tokens))
        return replace(await super().extend(session, new_ids, limited), finish="stop")


class ReadAgain(DrawnLengths):
    """Reads the whole history again for every action."""

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[Session]:
        sessions = await super().open(prompt_ids, n)
        for session in sessions:
            session.history = list(prompt_ids)
        return sessions

    async def extend(self, session: Session, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        session.history += new_ids
        session.prompt = Prompt(tuple(session.history[:-1]), to_begin=1)
        session.begun, session.states, session.pending = False, None, session.history[-1:]
        completion = await super().extend(session, (), sampling)
        session.history += completion.ids
        return completion


def in_step(play: Callable[[], object]) -> object:
    """The same where a batch keeps its rows until all of them have finished."""
    kept, huggingface.KEEP_SHARE = huggingface.KEEP_SHARE, 0.0
    try:
        return play()
    finally:
        huggingface.KEEP_SHARE = kept


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--model", type=Path, default=root / "src" / "a2tgpo" / "policies" / "tiny")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--sessions", type=int, default=32, help="side by side")
    parser.add_argument("--action", type=int, default=72, help="tokens of the longest action")
    parser.add_argument("--tool", type=float, default=0.05, help="seconds of a slow tool")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    configure_process(threads=1, keep_memory=True)
    policy = never_ending(load_policy(str(arguments.model), "float32", "sdpa", False, False, 1.0, 1.0))
    prompts = [(n, Task(f"t{n}", f" {n}?", ("x",))) for n in range(arguments.episodes)]

    def play(engine: HuggingFaceEngine, seconds: float = 0.0) -> list[Trajectory]:
        room = {"max_prompt_tokens": 2 * PROMPT, "max_response_tokens": TURNS * (arguments.action + 2 * RESULT)}
        limits = room | {"max_action_tokens": arguments.action, "max_sessions": arguments.episodes}
        reward = OutcomeReward("success", malformed=0.0, unanswered=0.0)
        rollout = Rollout(
            engine, partial(Talk, seconds=seconds), reward, **limits, episode_timeout=600.0, max_failed_share=0.0
        )
        return asyncio.run(rollout.run_async(policy, prompts, 1, (0,), greedy=False))

    engines = joined, free, again = tuple(
        made(arguments.sessions, deterministic)
        for made, deterministic in ((DrawnLengths, True), (DrawnLengths, False), (ReadAgain, True))
    )
    slow = arguments.tool
    ways = {
        "rows join as places come free": lambda: play(joined),
        "the same, batches not deterministic": lambda: play(free),
        "a batch until all have finished": lambda: in_step(lambda: play(joined)),
        "that, the history read again": lambda: in_step(lambda: play(again)),
        f"rows join, tools of {slow:g} s": lambda: play(joined, slow),
        f"the same, batches not deterministic, tools of {slow:g} s": lambda: play(free, slow),
    }
    expected, *others = [[t.token_ids for t in way()] for way in ways.values()]
    print(f"{len(expected)} episodes, {sum(map(len, expected))} tokens; the same token for token in all ways: ", end="")
    print([sum(a == b for a, b in zip(expected, other, strict=True)) for other in others])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    usage: dict[str, dict[str, float]] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            for engine in engines:
                engine.take_usage()
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
            usage[name] = max(
                (engine.take_usage() for engine in (joined, free, again)), key=lambda u: u["engine/places_taken"]
            )
    first = median(seconds["rows join as places come free"])
    print("| way | seconds, median (least–most) | ratio | places taken | waiting, s |\n|---|---|---|---|---|")
    for name, found in seconds.items():
        taken, idle = usage[name].values()
        spread = f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"
        print(f"| {name} | {spread} | {median(found) / first:.2f} | {taken:.2f} | {idle:.2f} |")


def never_ending(policy: Policy) -> Policy:
    """A policy that never samples an end token."""

    def unlikely(module: object, args: object, out: object) -> None:
        out.logits[..., list(policy.end_ids)] = -math.inf

    policy.model.register_forward_hook(unlikely)
    return policy


if __name__ == "__main__":
    main()
