"""One episode: an environment and a session of the engine take turns until something ends it. Token in, token out: what
the policy sampled is what will be trained on; a tool result is encoded once, on its own, and appended."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.chat_template import encode_observation, encode_prompt
from a2tgpo.rollouts.protocols import Chat, Completion, Engine, Environment, Sampling, StepResult
from a2tgpo.rollouts.start import Start
from a2tgpo.rollouts.thinking import only_quoted, opened_thought, overshoot
from a2tgpo.rollouts.trajectory import StopReason, Task, Trajectory, Turn
from a2tgpo.system.daemon_threads import SIDE_BY_SIDE, DaemonThreads
from a2tgpo.system.errors import SettingError, finite

Result = TypeVar("Result")
_THREADS = DaemonThreads(SIDE_BY_SIDE, "environment")


class EpisodeFailed(Exception):
    """The environment raised, or took too long: this episode is lost, the others go on."""


@dataclass(frozen=True)
class Limits:
    """Tokens of all actions and tool results of a trajectory together, tokens of one action, and seconds that the
    environment of one episode may take in all."""

    max_response_tokens: int
    max_action_tokens: int
    episode_timeout: float


async def run_in_thread(call: Callable[[], Result], timeout: float) -> Result:
    """`call()`, off the event loop. Raises what it raises, and TimeoutError once it has run for `timeout` seconds.

    Waiting for a free thread does not count.
    """
    began: list[float] = []

    def run() -> Result:
        began.append(time.monotonic())
        return call()

    future = _THREADS.submit(run)
    waiting = asyncio.wrap_future(future)
    left = timeout
    try:
        while not (await asyncio.wait({waiting}, timeout=left))[0]:
            left = timeout - (time.monotonic() - began[0]) if began else timeout
            if left <= 0:
                raise TimeoutError
        return waiting.result()
    finally:
        _THREADS.abandon(future)


class Episode:
    """One trajectory in the making: `open` it, then `play` it in a session that has read its `context`."""

    def __init__(
        self, policy: Policy, make_environment: Callable[[Task], Environment], start: Start, limits: Limits
    ) -> None:
        self.start = start
        self.environment: Environment | None = None
        self.prompt_ids: tuple[int, ...] = ()
        self.failure: EpisodeFailed | None = None
        """Why it was lost, where it was."""
        self._policy, self._make_environment, self._limits = policy, make_environment, limits
        self._turns: list[Turn] = []
        self._state: str | None = None
        self._seconds_left = limits.episode_timeout

    @property
    def context(self) -> tuple[int, ...]:
        """All tokens so far."""
        return self.prompt_ids + tuple(i for turn in self._turns for i in (*turn.action_ids, *turn.observation_ids))

    # ---- the environment ---------------------------------------------------------------------------------------------

    async def _ask(self, call: Callable[[], Result]) -> Result:
        """What the environment says, within the time that is left to it."""

        def timed() -> Result:
            began = time.perf_counter()
            try:
                return call()
            finally:
                self._seconds_left -= time.perf_counter() - began

        try:
            return await run_in_thread(timed, self._seconds_left)
        except SettingError:
            raise
        except Exception as error:
            why = str(error) or f"more than {self._limits.episode_timeout:g} seconds in the environment"
            raise EpisodeFailed(f"task {self.start.task.task_id}: {type(error).__name__}: {why}") from error

    async def open(self) -> None:
        """Build the environment, ask for the prompt, replay the recorded turns.

        Raises SettingError where it does not promise to do again what was recorded, or does not keep the promise.
        """
        self.environment, prompt, self._state = await self._ask(self._begin)
        self.prompt_ids = encode_prompt(self._policy, prompt, self.start.task.question)
        if self.start.prompt_ids is None:
            return
        if not self.environment.deterministic:
            raise SettingError(
                "data.environment.deterministic: a recorded prefix can only be continued in an environment that "
                "promises to repeat itself; expected true"
            )
        if self.prompt_ids != self.start.prompt_ids:
            raise SettingError(
                f"task {self.start.task.task_id}: its prompt is not the recorded one; expected the task, dialect and "
                "tokenizer of the record"
            )
        for turn in self.start.turns:
            result = await self._step(self._opened_thought() + turn.action_text)
            observation = self._encode(result, turn.action_ids, len(turn.observation_ids))
            if observation != turn.observation_ids:
                raise SettingError(
                    f"data.environment.deterministic: task {self.start.task.task_id}: turn {len(self._turns) + 1} "
                    "replayed gave another result than was recorded; expected an environment that repeats itself"
                )
            self._turns.append(turn)

    async def take_over(self, other: "Episode") -> None:
        """Stand where `other` stands, in a fork of its environment."""
        self.environment, self._state = await self._ask(other.environment.fork), other._state
        self.prompt_ids, self._turns = other.prompt_ids, list(other._turns)

    def _begin(self) -> tuple[Environment, str | Chat, str | None]:
        environment = self._make_environment(self.start.task)
        return environment, environment.prompt(), environment.state()

    async def _step(self, action: str) -> StepResult:
        result, self._state = await self._ask(lambda: (self.environment.step(action), self.environment.state()))
        return result

    def _encode(self, result: StepResult, action_ids: Sequence[int], max_tokens: int) -> tuple[int, ...]:
        observation = result.observation
        if not observation:
            return ()
        if isinstance(observation, str):  # what the action's last token wrote of it does not stand there twice
            observation = observation.removeprefix(
                overshoot(self.environment.stop_strings, self._policy.decode(action_ids))
            )
        closed = not self._policy.end_ids.isdisjoint(action_ids[-1:])
        return encode_observation(self._policy, observation, closed, max_tokens)

    # ---- the loop ----------------------------------------------------------------------------------------------------

    async def play(self, engine: Engine, session: object, greedy: bool) -> Trajectory:
        """Act and observe until the environment or a token limit ends it; `session` has read the context."""
        used = len(self.context) - len(self.prompt_ids)
        left, new_ids, stop = self._limits.max_response_tokens - used, (), None
        try:
            while stop is None:
                turn, stop = await self._turn(engine, session, new_ids, left, greedy)
                self._turns.append(turn)
                new_ids = turn.observation_ids
                left -= len(turn.action_ids) + len(turn.observation_ids)
                if stop is None and left == 0:
                    stop = StopReason.MAX_TOKENS
        except EpisodeFailed:
            engine.close(session)  # whatever else ends it ends the rollout, and nobody is to be sampled for any more
            raise
        engine.close(session)
        metrics = await self._ask(lambda: self.environment.finish(stop))
        start = self.start
        key = f"data.environment: metrics of task {start.task.task_id}"
        read = {name: finite(f"{key}: {name}", value) for name, value in metrics.items()}
        return Trajectory(start.task, start.group, start.sample, self.prompt_ids, tuple(self._turns), 0.0, stop, read)

    async def _turn(
        self, engine: Engine, session: object, new_ids: Sequence[int], left: int, greedy: bool
    ) -> tuple[Turn, StopReason | None]:
        opened, state = self._opened_thought(), self._state
        max_tokens = min(self._limits.max_action_tokens, left)
        key = self.start.noise(len(self._turns), state, self.context)
        sampling = Sampling(max_tokens, self.environment.stop_strings, greedy, key)
        action = await self._act(engine, session, new_ids, opened, sampling)
        text = self._policy.decode(action.ids)
        if action.finish == "length":
            result = StepResult(stop=StopReason.MAX_TOKENS)
        else:
            result = await self._step(opened + text)
        if result.stop is None and not result.observation:
            raise SettingError(
                f"task {self.start.task.task_id}: the environment gave neither an observation nor a stop reason; "
                "expected one"
            )
        read_ids = self._encode(result, action.ids, left - len(action.ids))
        turn = Turn(
            action.ids,
            action.logprobs,
            read_ids,
            text,
            self._policy.decode(read_ids),
            result.useful,
            result.calls,
            state,
            result.action,
            result.n_new_pieces,
            action.weights_version,
        )
        return turn, result.stop

    async def _act(
        self, engine: Engine, session: object, new_ids: Sequence[int], opened: str, sampling: Sampling
    ) -> Completion:
        """One action. A stop string that a thought only quotes does not end it: sampling goes on behind it."""
        action = part = await engine.extend(session, new_ids, sampling)
        parts = 1
        while part.finish == "stop" and only_quoted(sampling.stop_strings, opened + self._policy.decode(action.ids)):
            left = sampling.max_tokens - len(action.ids)
            if left == 0:
                return replace(action, finish="length")
            further = replace(sampling, max_tokens=left, key=(*sampling.key, parts))
            part = await engine.extend(session, (), further)
            action = replace(part, ids=action.ids + part.ids, logprobs=action.logprobs + part.logprobs)
            parts += 1
        return action

    def _opened_thought(self) -> str:
        return opened_thought(self._policy.tokenizer, self.context)
