"""The next rollout set, played in a thread while this one is scored and trained on."""

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from typing import Any

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.loop import Rollout
from a2tgpo.rollouts.protocols import Completion, OwnWeights, Sampling
from a2tgpo.system.progress import Told, nobody
from a2tgpo.training.refill import Filled

TIDYING = 2.0
"""Seconds within which a thread whose set nobody wants any more must have ended; it holds up nothing behind them."""


class LentEngine:
    """An engine lent to another thread than that of the training: it keeps the weights it has, and can be reclaimed."""

    def __init__(self, engine: OwnWeights) -> None:
        self._engine = engine
        self._reclaimed, self._sampling = False, None

    @property
    def max_staleness(self) -> int:
        """That of the engine."""
        return self._engine.max_staleness

    @property
    def version(self) -> int | None:
        """That of the engine."""
        return self._engine.version

    def lend(self) -> None:
        """From now on it may be sampled from."""
        self._reclaimed, self._sampling = False, None

    def reclaim(self) -> None:
        """Whoever samples is cancelled."""
        self._reclaimed = True
        if self._sampling is not None:
            loop, task = self._sampling
            with suppress(RuntimeError):  # that loop is over, and the next one will not begin
                loop.call_soon_threadsafe(task.cancel)

    def sync(self, policy: Policy) -> None:
        """Nothing: weights are brought by all ranks together, in their main threads, before the engine is lent."""
        self._sampling = asyncio.get_running_loop(), asyncio.current_task()
        if self._reclaimed:
            raise asyncio.CancelledError

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[Any]:
        """As the engine does."""
        return await self._engine.open(prompt_ids, n)

    async def extend(self, session: Any, new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """As the engine does."""
        return await self._engine.extend(session, new_ids, sampling)

    def close(self, session: Any) -> None:
        """As the engine does."""
        self._engine.close(session)


class Ahead:
    """One rollout set at a time, played in a thread of its own by the weights that the engine was given before.

    The thread runs no collective and leaves the policy's model alone. One set is wanted before the next is begun.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._engine = LentEngine(rollout.engine)
        self._rollout = replace(rollout, engine=self._engine)
        self._own: tuple[Policy, Policy] | None = None
        self._set: tuple[int, Future[tuple[Filled, float]], threading.Thread] | None = None
        self.seconds = 0.0
        """How long the set that was taken last was played; 0 where it was not played here."""

    def begin(self, iteration: int, policy: Policy, play: Callable[[Rollout, Policy], Filled]) -> None:
        """Play the set of `iteration`."""
        self.drop()
        player, own, played = self._rollout, self._beside(policy), Future()
        player.episodes.told = nobody
        self._engine.lend()

        def run() -> None:
            began = time.perf_counter()
            try:
                filled = play(player, own)
            except BaseException as error:  # raised again where the set is asked for
                played.set_exception(error)
            else:
                played.set_result((filled, time.perf_counter() - began))

        thread = threading.Thread(target=run, daemon=True, name="rollout ahead")
        self._set = iteration, played, thread
        thread.start()

    def wait(self, told: Told) -> None:
        """Until nothing is sampled any more; `told` hears how far it is. What went wrong is raised by `take`."""
        if self._set is not None:
            self._rollout.episodes.told = told
            wait([self._set[1]])

    def take(self, iteration: int, told: Told) -> Filled | None:
        """The set of `iteration`, once it is played; None where another or none was begun, which is thrown away then.

        Raises what playing it raised. `told` hears how far it is.
        """
        self.seconds = 0.0
        if self._set is None or self._set[0] != iteration:
            self.drop()
            return None
        self.wait(told)
        (_, played, thread), self._set = self._set, None
        thread.join()
        filled, self.seconds = played.result()
        return filled

    def drop(self) -> None:
        """End what is under way; nobody wants it any more."""
        if self._set is not None:
            (_, _, thread), self._set = self._set, None
            self._engine.reclaim()
            thread.join(TIDYING)

    def _beside(self, policy: Policy) -> Policy:
        """`policy` with a tokenizer of its own: each call sets options of the tokenizer, which another thread reads."""
        if self._own is None or self._own[0] is not policy:
            self._own = policy, replace(policy, tokenizer=copy.deepcopy(policy.tokenizer))
        return self._own[1]
