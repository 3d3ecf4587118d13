"""A server as its clients see it: JSON over HTTP, a time limit a request, two kinds of failure, and patience."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

FIRST_DELAY, LONGEST_DELAY = 0.25, 8.0
"""Seconds between two tries: doubled from the first to the longest."""

BUSY = (408, 429)
"""Client errors that mean: later."""


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


@dataclass(frozen=True)
class HttpClient:
    """The server at `url`; a request that takes longer than `timeout` seconds counts as not answered."""

    url: str
    timeout: float

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"data.engine.url={self.url}: expected http://host:port")
        if not self.timeout > 0:
            raise ValueError(f"data.engine.timeout={self.timeout}: expected seconds > 0")

    def get(self, path: str) -> Any:
        """What the server says at `path`. Raises Unavailable or Refused."""
        return self._request("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to `body`. Raises Unavailable or Refused."""
        return self._request("POST", path, json.dumps(body))

    def _request(self, method: str, path: str, body: str | None) -> Any:
        parts = urlsplit(self.url)
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = connect(parts.hostname, parts.port, timeout=self.timeout)
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if status >= 500 or status in BUSY:
            raise Unavailable(f"{path}: status {status}, {text[:300]}", status)
        if status >= 400:
            raise Refused(f"data.engine.url={self.url}: {path} was refused with status {status}: {text[:500]}", status)
        try:
            return json.loads(text) if text.startswith(("{", "[")) else text
        except ValueError as error:
            raise Unavailable(f"{path}: an answer that is cut off: {text[:300]}") from error


class RetryBudget:
    """Tells how long to wait after each failure of one request, and when to give up."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._seconds = url, seconds
        self._since: float | None = None
        self._delay = FIRST_DELAY

    def wait(self, error: Unavailable) -> float:
        """Seconds until the next try. Raises ValueError once `seconds` have passed since the first failure."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since + self._delay > self._seconds:
            raise ValueError(
                f"data.engine.url={self._url}: no answer for {self._seconds:g} s (data.engine.patience); last {error}; "
                "expected a running server: start it again, then go on from the last checkpoint with ckpt_path"
            ) from error
        delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY)
        return delay
