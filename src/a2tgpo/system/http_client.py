"""A server as its clients see it: JSON over HTTP, a time limit a request, two kinds of failure, and a retry budget."""

import random
import time
from typing import Any

import httpx2

from a2tgpo.system.jsonl import read_json
from a2tgpo.system.settings import require_all

BUSY = (408, 429)
"""Client errors that mean: later."""
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
    kept and shared by all threads, at most `max_connections` of them. Proxy settings of the machine are not used.
    """

    def __init__(self, url: str, timeout: float, key: str, max_connections: int) -> None:
        require_all({"url": url, "timeout": timeout}, key)
        self.url, self.timeout, self.key = url, timeout, key
        limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        self._client = httpx2.Client(limits=limits, trust_env=False)

    def get(self, path: str) -> Any:
        """What the server says at `path`. Raises Unavailable or Refused."""
        return self._request("GET", path, None, self.timeout)

    def post(self, path: str, body: dict[str, Any], timeout: float | None = None) -> Any:
        """The answer to `body`, within `timeout` seconds where this request has less time than others.

        Raises Unavailable or Refused.
        """
        return self._request("POST", path, body, self.timeout if timeout is None else timeout)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> Any:
        """JSON as plain values, any other text as it is: some answers are a word."""
        where = f"{path}: " if path else ""
        try:
            status, content = self._exchange(method, path, body, timeout)
        except httpx2.TimeoutException as error:
            raise Unavailable(f"{where}no answer within {timeout:.2g} seconds") from error
        except httpx2.RequestError as error:
            raise Unavailable(f"{where}{type(error).__name__}: {error}") from error
        text = content.decode(errors="replace")
        if status >= 500 or status in BUSY:
            raise Unavailable(f"{where}status {status}: {text[:SHOWN]!r}", status)
        if not 200 <= status < 300:
            what = f"{self.key}.url={self.url}: {path or 'the request'} was refused with status {status}"
            raise Refused(f"{what}: {text[:SHOWN]!r}", status)
        if not text.lstrip().startswith(("{", "[")):
            return text
        try:
            return read_json(content)
        except ValueError as error:
            raise Unavailable(f"{where}an answer that is cut off: {text[:SHOWN]!r}") from error

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> tuple[int, bytes]:
        """Status and content, which is read in parts: a server that drips it cannot hold the request forever."""
        url = self.url.rstrip("/") + path if path else self.url
        end, content = time.monotonic() + timeout, bytearray()
        with self._client.stream(method, url, json=body, timeout=timeout) as answer:
            for part in answer.iter_bytes():
                content += part
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("too slow")
        return answer.status_code, bytes(content)


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
