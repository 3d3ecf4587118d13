"""Work of a given size: episodes whose lengths are drawn, played by a policy or made of random tokens."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from a2tgpo.engines.huggingface import HuggingFaceEngine
from a2tgpo.engines.sessions import Session
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.protocols import Completion, Engine, Sampling, StepResult
from a2tgpo.rollouts.rewards.outcome import OutcomeReward
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn

WORD = " the"
"""What prompts and results are made of."""
CALL = " ="
"""What the last of them ends with; an action is all that follows."""


@dataclass(frozen=True)
class Episodes:
    """How many, how they are grouped, and how long: turns, and words or tokens of each part of an episode."""

    groups: int
    group_size: int
    turns: int
    prompt: int
    action: int
    """Tokens of the longest action."""
    result: int
    sigma: float = 0.8
    """Actions are of log-normal length around a third of the longest; where this is 0, all are the longest."""

    @property
    def count(self) -> int:
        """All episodes."""
        return self.groups * self.group_size

    @property
    def most_response_tokens(self) -> int:
        """Room for all actions and results of an episode; a word may be several tokens."""
        return self.turns * (self.action + 4 * (self.result + 8))

    def places(self) -> list[tuple[int, int]]:
        """Group and sample of each episode."""
        return [(group, sample) for group in range(self.groups) for sample in range(self.group_size)]

    def length(self, key: Sequence[int]) -> int:
        """Tokens of the action that `key` names, at least 2."""
        if not self.sigma:
            return self.action
        drawn = math.exp(self.sigma * np.random.default_rng(tuple(key)).standard_normal()) * self.action / 3
        return min(max(int(drawn), 2), self.action)

    def tasks(self) -> list[tuple[int, Task]]:
        """Each prompt with the index of its group."""
        return [(n, Task(f"t{n}", f" {n}?", ("x",))) for n in range(self.groups)]

    def prompt_text(self, task: Task) -> str:
        """What opens the episodes of a task."""
        return WORD * self.prompt + task.question + CALL

    def result_text(self) -> str:
        """What a tool says."""
        return WORD * self.result + CALL


class Talk:
    """An environment that answers every action but the last with a text, after `seconds`."""

    stop_strings = ()
    deterministic = True

    def __init__(self, task: Task, episodes: Episodes, seconds: float) -> None:
        self.task, self.episodes, self.seconds = task, episodes, seconds
        self.heard = self.said = 0

    def prompt(self) -> str:
        """What opens the episode."""
        return self.episodes.prompt_text(self.task)

    def step(self, action_text: str) -> StepResult:
        """The same result for every action."""
        self.heard += 1
        self.said += len(action_text)
        time.sleep(self.seconds)
        over = self.heard == self.episodes.turns
        return StepResult(stop=StopReason.ANSWERED) if over else StepResult(self.episodes.result_text())

    def state(self) -> None:
        """Nobody asks."""

    def finish(self, stop: StopReason) -> dict[str, float]:
        """An outcome that differs in a group."""
        return {"success": float(self.said % 2)}


def sampling_of_drawn_length(episodes: Episodes, sampling: Sampling) -> Sampling:
    """The same with the limit that is drawn for this action; the last two numbers of its key are sample and turn."""
    return replace(sampling, max_tokens=min(episodes.length(sampling.key), sampling.max_tokens))


class DrawnLengths(HuggingFaceEngine):
    """Our engine, with actions whose lengths are drawn."""

    def __init__(self, episodes: Episodes, max_sessions: int, deterministic: bool | str = "auto") -> None:
        super().__init__(max_sessions, deterministic)
        self.episodes = episodes

    async def extend(self, session: Session, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """An action that ends where it was drawn to end."""
        limited = sampling_of_drawn_length(self.episodes, sampling)
        return replace(await super().extend(session, new_ids, limited), finish="stop")


def rollout(engine: Engine, episodes: Episodes, tool_seconds: float = 0.0) -> Rollout:
    """Plays `episodes` with an engine."""
    return Rollout(
        engine,
        partial(Talk, episodes=episodes, seconds=tool_seconds),
        OutcomeReward("success", malformed=0.0, unanswered=0.0),
        max_prompt_tokens=4 * (episodes.prompt + 16),
        max_response_tokens=episodes.most_response_tokens,
        max_action_tokens=episodes.action,
        max_sessions=episodes.count,
        episode_timeout=600.0,
        max_failed_share=0.0,
    )


def random_trajectories(policy: Policy, episodes: Episodes, seed: int = 0) -> list[Trajectory]:
    """Trajectories of random tokens, with prompts, actions and results of as many tokens as `episodes` says."""
    random = np.random.default_rng(seed)
    vocabulary = min(len(policy.tokenizer), policy.model.config.vocab_size)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(random.integers(2, vocabulary, n).tolist())

    made = []
    for group, task in episodes.tasks():
        prompt = tokens(episodes.prompt)
        for sample in range(episodes.group_size):
            turns = []
            for turn in range(episodes.turns):
                action = tokens(episodes.length((seed, group, sample, turn)))
                last = turn == episodes.turns - 1
                turns.append(Turn(action, (-1.0,) * len(action), () if last else tokens(episodes.result)))
            outcome = float(random.integers(2))
            made.append(Trajectory(task, group, sample, prompt, tuple(turns), outcome, StopReason.ANSWERED))
    return made
