"""A server as its clients see it: JSON over HTTP, limits of time and size, two kinds of failure, a retry budget."""

import random
import threading
import time
from typing import Any

import httpx2

from a2tgpo.system.daemon_threads import DaemonThreads
from a2tgpo.system.jsonl import read_json
from a2tgpo.system.settings import require_all

BUSY = (408, 429)
"""Client errors that mean: later."""
MAX_ANSWER = 4 << 20
"""Bytes an answer may have: more than any number of passages or sampled tokens that could be used."""
SHOWN = 300
"""Characters of an answer that an error quotes."""


class Unavailable(ValueError):
    """The server did not answer, or could not: the same request may succeed later."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Refused(ValueError):
    """The server understood the request and said no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HttpClient:
    """The server at `url`; a request that takes longer than `timeout` seconds counts as not answered.

    `key` is where its settings stand on the command line, such as `data.engine`: errors begin with it. Connections are
    kept and shared by all threads, at most `max_connections` of them; the time of a request that waits for one does not
    run yet. Of an answer no more than MAX_ANSWER bytes are read. Redirects are not followed. Proxy settings of the
    machine are not used.
    """

    def __init__(self, url: str, timeout: float, key: str, max_connections: int) -> None:
        require_all({"url": url, "timeout": timeout}, key)
        self.url, self.timeout, self.key = url, timeout, key
        limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        self._client = httpx2.Client(limits=limits, trust_env=False)
        self._threads = DaemonThreads(max_connections, "http")

    def get(self, path: str, *fields: str) -> Any:
        """What the server says at `path`, or what stands under `fields` in there. Raises Unavailable or Refused."""
        return self._field(path, self._request("GET", path, None, self.timeout), fields)

    def post(self, path: str, body: dict[str, Any], *fields: str, timeout: float | None = None) -> Any:
        """The answer to `body`, or what stands under `fields` in there, within `timeout` seconds where this request
        has less time than others.

        Raises Unavailable or Refused.
        """
        answer = self._request("POST", path, body, self.timeout if timeout is None else timeout)
        return self._field(path, answer, fields)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _field(self, path: str, answer: Any, fields: tuple[str, ...]) -> Any:
        value = answer
        for field in fields:
            if not isinstance(value, dict) or field not in value:
                raise Unavailable(f"{path}: expected an answer with {'.'.join(fields)}, found {str(answer)[:SHOWN]}")
            value = value[field]
        return value

    def _request(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> Any:
        """JSON as plain values, any other text as it is: some answers are a word."""
        where, begun = f"{path}: " if path else "", threading.Event()

        def exchanged() -> tuple[int, bytearray, str]:
            begun.set()
            return self._exchange(method, path, body, timeout)

        exchange = self._threads.submit(exchanged)
        begun.wait()  # for others, who have their own time limits
        try:
            status, content, location = exchange.result(timeout)
        except (TimeoutError, httpx2.TimeoutException) as error:
            self._threads.abandon(exchange)
            raise Unavailable(f"{where}no answer within {timeout:.2g} seconds") from error
        except httpx2.RequestError as error:
            raise Unavailable(f"{where}{type(error).__name__}: {error}") from error
        shown = repr(content[: 4 * SHOWN].decode(errors="replace")[:SHOWN])
        if status >= 500 or status in BUSY:
            raise Unavailable(f"{where}status {status}: {shown}", status)
        what = f"{self.key}.url={self.url}: {path or 'the request'}"
        if not 200 <= status < 300:
            raise Refused(f"{what} was refused with status {status}{location}: {shown}", status)
        if len(content) > MAX_ANSWER:
            raise Refused(f"{what} was answered with more than {MAX_ANSWER} bytes: {shown}", status)
        if not content[:SHOWN].lstrip().startswith((b"{", b"[")):
            return content.decode(errors="replace")
        try:
            return read_json(content)
        except ValueError as error:
            raise Unavailable(f"{where}an answer that is cut off, or no JSON in UTF-8: {shown}") from error

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float
    ) -> tuple[int, bytearray, str]:
        """Status, content up to a little more than MAX_ANSWER bytes, and where a redirect leads to.

        Content is read in parts, so that who drips it cannot hold the connection forever.
        """
        url = self.url.rstrip("/") + path if path else self.url
        end, content = time.monotonic() + timeout, bytearray()
        with self._client.stream(method, url, json=body, timeout=timeout) as answer:
            for part in answer.iter_bytes():
                content += part
                if len(content) > MAX_ANSWER:
                    break
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("too slow")
        location = answer.headers.get("location", "")
        return answer.status_code, content, f" → {location[:SHOWN]}" if location else ""


class RetryBudget:
    """Tells how long to pause after each failure of one request, and when to give up.

    A pause is doubled from `first_delay` up to `longest_delay` seconds, and each is cut by up to a half at random, so
    that clients which failed together do not come back together. `seconds` bounds all tries together; they are counted
    from `since` (of time.monotonic), or else from the first failure. `retries` bounds how many pauses there are.
    """

    def __init__(
        self,
        seconds: float,
        first_delay: float,
        longest_delay: float,
        retries: float = float("inf"),
        since: float | None = None,
    ) -> None:
        self._seconds, self._since, self._retries = seconds, since, retries
        self._delay, self._longest_delay = first_delay, longest_delay
        self._jitter = random.Random()  # not the global generator, whose state belongs to the run
        self.failures = 0
        """Tries that failed so far."""

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self._seconds if self._since is None else self._since + self._seconds - time.monotonic()

    def pause(self) -> float | None:
        """Seconds to pause after one more failure, or None where the budget is spent."""
        self.failures += 1
        if self._since is None:
            self._since = time.monotonic()
        delay = self._delay * self._jitter.uniform(0.5, 1.0)
        self._delay = min(2 * self._delay, self._longest_delay)
        return None if self.failures > self._retries or delay >= self.left else delay
