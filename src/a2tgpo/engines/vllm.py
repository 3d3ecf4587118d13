"""Sampling from a server that speaks the completions protocol of OpenAI with vLLM's token ids."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from a2tgpo.engines.weight_sync.protocols import WeightSync
from a2tgpo.engines.weight_sync.weights import Served, weights_mark, whole_weights
from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Completion, Sampling
from a2tgpo.system.daemon_threads import DaemonThreads
from a2tgpo.system.distributed import gather, rank_and_world_size
from a2tgpo.system.errors import SettingError
from a2tgpo.system.http_client import SHOWN, HttpClient, Refused, RetryBudget, Unavailable
from a2tgpo.system.settings import require_all

LIKELIEST = 1e-4
"""A `top_p` that leaves one token, and how far from 0 its log-prob may be told."""
DELAYS = (0.25, 8.0)  # seconds between two tries: doubled from the first to the longest


class VllmEngine:
    """Sends all ids of an episode with every action; the server's prefix cache makes that cheap.

    The sessions stay here, so that a server that dies and comes back within its retry budget (`patience` seconds) costs
    time only: the weights are pushed again and the open requests are sent again. Noise is keyed by a seed a request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        weight_sync: WeightSync,
        max_staleness: int,
        timeout: float,
        patience: float,
        max_concurrency: int,
    ) -> None:
        own = {"max_staleness": max_staleness, "patience": patience, "max_concurrency": max_concurrency}
        require_all(own, "data.engine")
        self.server = HttpClient(url, timeout, "data.engine", max_concurrency)
        self.base, self.weight_sync = model, weight_sync
        if max_staleness and not weight_sync.keeps:
            raise SettingError(
                f"data.engine.max_staleness={max_staleness}: expected 0, or data/engine/weight_sync=lora or reload: a "
                "server that is started anew would be given weights out of the middle of an update"
            )
        self.max_staleness, self.patience = max_staleness, patience
        self.version: int | None = None
        self.staleness = 0
        """Iterations, of several optimizer steps each, that the served weights lag behind the policy."""
        self._threads = DaemonThreads(max_concurrency, "completions")
        self._policy: Policy | None = None
        self._served: Served | None = None
        self._served_version: int | None = None
        self._mark: int | None = None
        self._weights_stale, self._lock = False, threading.Lock()
        """May the server have forgotten the weights?"""

    # ---- weights -----------------------------------------------------------------------------------------------------

    def sync(self, policy: Policy) -> None:
        """Push the weights if those on the server would be too stale.

        What is sampled in training is trained on an iteration later, where it may be stale: so the weights may have
        changed before `max_staleness` − 1 calls since the last push. A policy in evaluation mode is always played as it
        is. Nobody may sample meanwhile. Every rank must ask; the first one pushes. Raises ValueError where the server
        cannot take the weights.
        """
        self._policy = policy
        mark = weights_mark(policy)
        changed = any(gather(mark != self._mark))
        self._mark, self.staleness = mark, self.staleness + changed
        allowed = max(self.max_staleness - 1, 0) if policy.model.training else 0
        if self._served is None or self.staleness > allowed:
            self._served, self.staleness = self._push(policy), 0
        if not self.staleness:
            self._served_version = self.version
        self._weights_stale = True

    def _push(self, policy: Policy) -> Served:
        weights = whole_weights(policy)
        pushed: Served | str = ""
        if rank_and_world_size()[0] == 0:
            try:
                pushed = self.weight_sync.save(policy, weights, self.base)
                self._retry(self.weight_sync.load, pushed)
                if self._served is not None:
                    self._retry(self.weight_sync.drop, self._served)
            except ValueError as error:
                pushed = str(error)
        pushed = gather(pushed)[0]
        if isinstance(pushed, str):
            raise ValueError(pushed)
        return pushed

    def _retry(self, action: Callable[[HttpClient, Served], None], served: Served) -> None:
        budget = RetryBudget(self.patience, *DELAYS)
        while True:
            try:
                return action(self.server, served)
            except Unavailable as error:
                if error.status == 500:  # a setting that the server was started without, not a moment of weakness
                    raise ValueError(f"data.engine.url={self.server.url}: weights were not taken; {error}") from error
                time.sleep(self._pause(budget, error))

    def _pause(self, budget: RetryBudget, error: Unavailable) -> float:
        """Seconds until the next try. Raises ValueError where the retry budget is spent."""
        if (delay := budget.pause()) is not None:
            return delay
        what = f"no answer for {self.patience:g} s (data.engine.patience); last {error}"
        how = "expected a running server: start it again, then go on from the last checkpoint with ckpt_path"
        raise ValueError(f"data.engine.url={self.server.url}: {what}; {how}") from error

    # ---- sampling ----------------------------------------------------------------------------------------------------

    async def open(self, prompt_ids: Sequence[int], n: int) -> list[list[int]]:
        """`n` sessions: the ids read so far."""
        return [list(prompt_ids) for _ in range(n)]

    async def extend(self, session: list[int], new_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Read `new_ids`, then sample until a stop string, an end token or the token limit.

        Raises ValueError where the server refuses, or is silent for longer than the retry budget.
        """
        session += new_ids
        body, budget = self._request(session, sampling), RetryBudget(self.patience, *DELAYS)
        while True:
            try:
                completion = await asyncio.wrap_future(self._threads.submit(partial(self._complete, body)))
                break
            except Unavailable as error:
                await asyncio.sleep(self._pause(budget, error))
        session += completion.ids
        return completion

    def close(self, session: list[int]) -> None:
        """Nothing is held on the server."""

    def _request(self, ids: Sequence[int], sampling: Sampling) -> dict[str, Any]:
        """The policy's own distribution, whatever sampling settings the served folder recommends."""
        return {
            "prompt": list(ids),
            "max_tokens": sampling.max_tokens,
            "temperature": 0.0 if sampling.greedy else self._policy.temperature,
            "top_p": 1.0 if sampling.greedy else self._policy.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": request_seed(sampling.key),
            "stop": list(sampling.stop_strings),
            "include_stop_str_in_output": True,
            "ignore_eos": True,
            "stop_token_ids": sorted(self._policy.end_ids),
            "skip_special_tokens": False,
            "logprobs": 0,
            "return_token_ids": True,
        }

    def _complete(self, body: dict[str, Any]) -> Completion:
        """One try, in a thread. After a failure nobody samples before the server is known to have the weights."""
        self._make_sure(body)
        try:
            return self._ask(body)
        except Unavailable:
            self._weights_stale = True
            raise
        except Refused as error:
            if error.status != 404:
                raise
            self._weights_stale = True
            raise Unavailable(f"{self._served.model} is not served any more") from error

    def _ask(self, body: dict[str, Any]) -> Completion:
        choices = self.server.post("/v1/completions", {"model": self._served.model, **body}, "choices")
        if not isinstance(choices, list) or not choices:  # a gateway speaks in the server's place
            raise Unavailable(f"no completion: {str(choices)[:SHOWN]}")
        return self._read(choices[0], body["max_tokens"])

    def _make_sure(self, body: dict[str, Any]) -> None:
        if not self._weights_stale:
            return
        if not self._lock.acquire(timeout=self.server.timeout):
            raise Unavailable("the server does not say which weights it has")
        try:
            if self._weights_stale:
                self.weight_sync.load(self.server, self._served)
                self._require_logprobs_as_drawn(body)
                self._weights_stale = False
        finally:
            self._lock.release()

    def _require_logprobs_as_drawn(self, body: dict[str, Any]) -> None:
        """Raises SettingError where the server tells the log-probs of another distribution than it draws from.

        Asked where the two differ: of one likeliest token alone the log-prob is 0.
        """
        differs = body["temperature"] not in (0.0, 1.0) or body["top_p"] < 1.0
        if differs and self._ask(body | {"max_tokens": 1, "top_p": LIKELIEST}).logprobs[0] < -LIKELIEST:
            raise SettingError(
                f"data.engine.url={self.server.url}: with model.policy.temperature={body['temperature']} and "
                f"model.policy.top_p={body['top_p']} the server tells log-probs at temperature 1 of all tokens; "
                "expected those of the distribution drawn from: start vLLM with --logprobs-mode processed_logprobs"
            )

    def _read(self, choice: Any, max_tokens: int) -> Completion:
        try:
            finish, ids = choice["finish_reason"], tuple(choice["token_ids"] or ())
            logprobs = tuple(choice["logprobs"]["token_logprobs"])
        except (KeyError, TypeError) as error:
            raise self._no_tokens(choice) from error
        if finish not in ("stop", "length"):
            raise Unavailable(f"the server ended a completion with {finish!r}")
        known = range(self._policy.model.get_input_embeddings().num_embeddings)
        if not (
            1 <= len(ids) == len(logprobs) <= max_tokens
            and all(type(i) is int and i in known for i in ids)
            and all(type(p) in (float, int) and math.isfinite(p) for p in logprobs)
        ):
            raise self._no_tokens(choice)
        finish = "eos" if ids[-1] in self._policy.end_ids else finish
        return Completion(ids, logprobs, finish, self._served_version)

    def _no_tokens(self, choice: Any) -> ValueError:
        return ValueError(
            f"data.engine.url={self.server.url}: a completion without the policy's token ids and finite log-probs, "
            f"{str(choice)[:SHOWN]}; expected a server that knows return_token_ids, such as vLLM"
        )


def request_seed(key: tuple[int, ...]) -> int:
    """A non-negative 63-bit seed that is a function of the key alone."""
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> np.uint64(1))
