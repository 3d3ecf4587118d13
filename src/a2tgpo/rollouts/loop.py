"""The multi-turn loop: engine × environment → groups of trajectories. Token in, token out: what the policy sampled
is what will be trained on; a tool result is encoded once, on its own, and appended."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import encode_observation, encode_prompt
from a2tgpo.rollouts.protocols import Completion, Engine, Environment, Sampling, StepResult
from a2tgpo.rollouts.thinking import only_quoted, opened_thought
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn

TRAINING_NOISE, EVALUATION_NOISE = 0, 1
"""Second part of the key of the sampling noise, after the seed: evaluation never repeats training's draws."""

ENOUGH_CALLS = 16
"""So many tool calls without a single result are no coincidence."""

_STEP_THREADS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="environment")


def require_results(trajectories: Sequence[Trajectory]) -> None:
    """Raises ValueError where all of at least `ENOUGH_CALLS` tool calls found nothing."""
    calls = [turn for trajectory in trajectories for turn in trajectory.turns if turn.is_process]
    if len(calls) >= ENOUGH_CALLS and all(turn.empty for turn in calls):
        raise ValueError(
            f"data.retriever: none of {len(calls)} searches of a rollout set returned a passage; expected some to. "
            f"The last said: {calls[-1].observation_text}"
        )


@dataclass(frozen=True)
class Rollout:
    """Plays episodes.

    `environment(task)` makes one episode; `max_response_tokens` bounds all actions and tool results of a trajectory
    together, `max_action_tokens` one action; `max_sessions` bounds how many trajectories are under way at once.
    """

    engine: Engine
    environment: Callable[[Task], Environment]
    max_prompt_tokens: int
    max_response_tokens: int
    max_action_tokens: int
    max_sessions: int

    @property
    def longest(self) -> int:
        """Tokens that a trajectory has at most."""
        return self.max_prompt_tokens + self.max_response_tokens

    def run(
        self, policy: Policy, prompts: Sequence[tuple[int, Task]], group_size: int, key: tuple[int, ...], greedy: bool
    ) -> list[Trajectory]:
        """Play `group_size` episodes for each (group index, task), in that order. `key` keys the sampling noise."""
        return asyncio.run(self.play(policy, prompts, group_size, key, greedy))

    async def play(
        self, policy: Policy, prompts: Sequence[tuple[int, Task]], group_size: int, key: tuple[int, ...], greedy: bool
    ) -> list[Trajectory]:
        """As `run`, for callers that already are in an event loop, such as a notebook.

        Raises ValueError where the token limits exceed what the model was made for.
        """
        if self.longest > policy.max_length:
            raise ValueError(
                f"data.module.max_prompt_tokens={self.max_prompt_tokens}, "
                f"data.module.max_response_tokens={self.max_response_tokens}: together {self.longest}; "
                f"expected at most the {policy.max_length} positions of the model"
            )
        self.engine.sync(policy)
        width = min(group_size, self.max_sessions)
        parts = [range(first, min(first + width, group_size)) for first in range(0, group_size, width)]
        encoded = [(group, task, self._encode_prompt(policy, task)) for group, task in prompts]
        opened = [(*prompt, samples) for prompt in encoded for samples in parts]
        at_once = self.max_sessions // width
        trajectories: list[Trajectory] = []
        for start in range(0, len(opened), at_once):
            episodes = []
            for group, task, prompt_ids, samples in opened[start : start + at_once]:
                for sample, session in zip(samples, await self.engine.open(prompt_ids, len(samples)), strict=True):
                    episode = Episode(self, policy, task, group, sample, prompt_ids, session, (*key, group, sample))
                    episodes.append(episode.play(greedy))
            trajectories += await asyncio.gather(*episodes)
        require_results(trajectories)
        return trajectories

    def _encode_prompt(self, policy: Policy, task: Task) -> tuple[int, ...]:
        ids = encode_prompt(policy, self.environment(task).prompt())
        if len(ids) > self.max_prompt_tokens:
            raise ValueError(
                f"task {task.task_id}: its prompt has {len(ids)} tokens; "
                f"expected at most data.module.max_prompt_tokens={self.max_prompt_tokens}"
            )
        return ids


@dataclass
class Episode:
    """One trajectory in the making."""

    rollout: Rollout
    policy: Policy
    task: Task
    group: int
    sample: int
    prompt_ids: tuple[int, ...]
    session: object
    key: tuple[int, ...]

    async def play(self, greedy: bool) -> Trajectory:
        """Act and observe until the environment or a token budget ends it."""
        environment = self.rollout.environment(self.task)
        turns: list[Turn] = []
        left, new_ids, stop = self.rollout.max_response_tokens, (), None
        while stop is None:
            turn, stop = await self._turn(environment, new_ids, left, len(turns), greedy)
            turns.append(turn)
            new_ids = turn.observation_ids
            left -= len(turn.action_ids) + len(turn.observation_ids)
            if stop is None and left == 0:
                stop = StopReason.MAX_TOKENS
        self.rollout.engine.close(self.session)
        outcome, metrics = environment.finish(stop)
        return Trajectory(self.task, self.group, self.sample, self.prompt_ids, tuple(turns), outcome, stop, metrics)

    async def _act(self, new_ids: Sequence[int], opened: str, sampling: Sampling) -> Completion:
        """One action. A stop text that a thought only quotes does not end it: sampling goes on behind it."""
        action = part = await self.rollout.engine.extend(self.session, new_ids, sampling)
        parts = 1
        while part.finish == "stop" and only_quoted(sampling.stop_strings, opened + self.policy.decode(action.ids)):
            left = sampling.max_tokens - len(action.ids)
            if left == 0:
                return replace(action, finish="length")
            further = replace(sampling, max_tokens=left, key=(*sampling.key, parts))
            part = await self.rollout.engine.extend(self.session, (), further)
            action = Completion(action.ids + part.ids, action.logprobs + part.logprobs, part.finish)
            parts += 1
        return action

    async def _turn(
        self, environment: Environment, new_ids: Sequence[int], left: int, index: int, greedy: bool
    ) -> tuple[Turn, StopReason | None]:
        opened = opened_thought(self.policy.tokenizer, new_ids or self.prompt_ids)
        sampling = Sampling(
            min(self.rollout.max_action_tokens, left), environment.stop_strings, greedy, (*self.key, index)
        )
        action = await self._act(new_ids, opened, sampling)
        text = self.policy.decode(action.ids)
        if action.finish == "length":
            result = StepResult(stop=StopReason.MAX_TOKENS)
        else:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(_STEP_THREADS, environment.step, opened + text)
        closed = not self.policy.end_ids.isdisjoint(action.ids[-1:])
        observation_ids = encode_observation(self.policy, result.observation, closed) if result.observation else ()
        if result.stop is None and not observation_ids:
            raise ValueError(
                f"task {self.task.task_id}: the environment gave neither an observation nor a stop reason; expected one"
            )
        read_ids = observation_ids[: left - len(action.ids)]
        turn = Turn(
            action.ids,
            action.logprobs,
            read_ids,
            text,
            self.policy.decode(read_ids),
            result.useful,
            result.empty,
        )
        return turn, result.stop
