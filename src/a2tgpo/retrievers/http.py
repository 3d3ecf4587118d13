"""Retrieval from a server: the client of `POST /retrieve`, in either dialect."""

import random
import time
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx2

from a2tgpo.retrievers.passages import read_contents
from a2tgpo.system.jsonl import read_json

FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0
"""Seconds before the first retry, doubled for each one after it up to the longest."""


class RetrievalError(RuntimeError):
    """A search that brought no passages; says which server and why."""


class _Temporary(RetrievalError):
    """A failure that another try may not meet."""


class HttpRetriever:
    """Asks a retrieval server, which holds one corpus. Safe to use from many threads.

    A server error (5xx), a connection that is refused or lost and a time-out are tried again up to `retries` times,
    each after a longer delay; `total_timeout` bounds the seconds of one search with all of this, `timeout` those of one
    request. Keep `total_timeout` below the environment's limit, or the environment gives up first. At most
    `max_concurrent` requests are under way; the last `cache_size` answers are kept. Proxy settings of the machine are
    not used.
    """

    def __init__(
        self,
        url: str,
        dialect: str,
        timeout: float,
        total_timeout: float,
        retries: int,
        max_concurrent: int,
        cache_size: int,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"data.retriever.url={url}: expected http://host:port/retrieve")
        if dialect not in ("search_r1", "skyrl"):
            raise ValueError(f"data.retriever.dialect={dialect!r}: expected 'search_r1' or 'skyrl'")
        if not 0 < timeout <= total_timeout:
            raise ValueError(f"data.retriever.timeout={timeout}: expected 0 < timeout <= total_timeout={total_timeout}")
        for name, value, least in (
            ("retries", retries, 0),
            ("max_concurrent", max_concurrent, 1),
            ("cache_size", cache_size, 0),
        ):
            if value < least:
                raise ValueError(f"data.retriever.{name}={value}: expected at least {least}")
        self._url, self._dialect, self._timeout = url, dialect, timeout
        self._total_timeout, self._retries = total_timeout, retries
        limits = httpx2.Limits(max_connections=max_concurrent, max_keepalive_connections=max_concurrent)
        self._client = httpx2.Client(limits=limits, trust_env=False)
        self._jitter = random.Random()  # not the global generator, whose state belongs to the run
        self._cached = lru_cache(maxsize=cache_size)(self._ask)

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The contents of the best `topk` passages, best first. `corpus` is not sent: the server holds one.

        Raises RetrievalError when the server has no proper answer in time.
        """
        return list(self._cached(query, topk))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, query: str, topk: int) -> tuple[str, ...]:
        """Try, and try again while there is time."""
        end, delay, tries = time.monotonic() + self._total_timeout, FIRST_DELAY, 0
        while True:
            tries += 1
            try:
                return self._read(self._post(query, topk, end))
            except _Temporary as error:
                pause = delay * self._jitter.uniform(0.5, 1.0)
                if tries > self._retries or time.monotonic() + pause >= end:
                    raise RetrievalError(f"{self._url}: {error} ({tries} tries)") from error
            time.sleep(pause)
            delay = min(2 * delay, LONGEST_DELAY)

    def _post(self, query: str, topk: int, end: float) -> bytes:
        """The body of one answer. It is read in parts, so that a server that drips cannot hold the search forever."""
        asked = {"queries": [query]} if self._dialect == "search_r1" else {"query": query}
        end = min(end, time.monotonic() + self._timeout)
        body = bytearray()
        limit = max(end - time.monotonic(), 1e-3)
        try:
            with self._client.stream(
                "POST", self._url, json={**asked, "topk": topk, "return_scores": True}, timeout=limit
            ) as answer:
                for part in answer.iter_bytes():
                    body += part
                    if time.monotonic() > end:
                        raise httpx2.ReadTimeout("too slow")
        except httpx2.TimeoutException as error:
            raise _Temporary(f"no answer within {limit:.2g} seconds") from error
        except httpx2.RequestError as error:
            raise _Temporary(f"{type(error).__name__}: {error}") from error
        if answer.status_code >= 500:
            raise _Temporary(f"status {answer.status_code}: {_beginning(body)}")
        if answer.status_code != 200:
            raise RetrievalError(f"{self._url}: status {answer.status_code}: {_beginning(body)}")
        return bytes(body)

    def _read(self, body: bytes) -> tuple[str, ...]:
        """The passages of an answer, of a server that puts scores beside its documents or leaves them out."""
        try:
            (found,) = read_json(body)["result"]
            if not isinstance(found, list):
                raise TypeError(f"{found!r} is no list")
            return tuple(read_contents(_document(item)) for item in found)
        except (ValueError, KeyError, TypeError) as error:
            raise RetrievalError(
                f"{self._url}: expected {{'result': [[{{'document': {{'contents'}}}}, …]]}}, found {_beginning(body)}"
            ) from error


def _document(item: Any) -> Any:
    return item["document"] if isinstance(item, dict) and "document" in item else item


def _beginning(body: bytes) -> str:
    return repr(bytes(body[:80]).decode(errors="replace"))
