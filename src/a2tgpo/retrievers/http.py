"""Retrieval from a server: the client of `POST /retrieve`, in either protocol."""

import json
import time
from functools import lru_cache
from typing import Any

from a2tgpo.retrievers.passages import read_contents
from a2tgpo.system.http_client import HttpClient, Refused, RetryBudget, Unavailable
from a2tgpo.system.settings import require_all

FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0
"""Seconds before the first retry, doubled for each one after it up to the longest."""
MAX_PASSAGE = 1 << 16
"""Characters of a passage that are taken: what a server sends beyond is neither kept nor read."""
LEAST_TIMEOUT = 1e-3
"""Seconds of a request that comes when the time of its search is up."""


class RetrievalError(RuntimeError):
    """A search that brought no passages; says which server and why."""


class HttpRetriever:
    """Asks a retrieval server, which holds one corpus. Safe to use from many threads.

    What may pass (`Unavailable`: a server error, a connection that is refused or lost, a time-out) is tried again up to
    `retries` times, each after a longer pause; `total_timeout` bounds the seconds of one search with all of this,
    `timeout` those of one request. Keep `total_timeout` below the environment's limit, or the environment gives up
    first. At most `max_concurrent` requests are under way; the last `cache_size` answers are kept, of each passage
    MAX_PASSAGE characters. Proxy settings of the machine are not used.
    """

    def __init__(
        self,
        url: str,
        protocol: str,
        timeout: float,
        total_timeout: float,
        retries: int,
        max_concurrent: int,
        cache_size: int,
    ) -> None:
        own = {"protocol": protocol, "timeout": timeout, "total_timeout": total_timeout, "retries": retries}
        require_all(own | {"max_concurrent": max_concurrent, "cache_size": cache_size}, "data.retriever")
        if timeout > total_timeout:
            raise ValueError(
                f"data.retriever.timeout={timeout}: expected at most data.retriever.total_timeout={total_timeout}"
            )
        self._server = HttpClient(url, timeout, "data.retriever", max_concurrent)
        self._protocol, self._total_timeout, self._retries = protocol, total_timeout, retries
        self._cached = lru_cache(maxsize=cache_size)(self._ask)

    def search(self, query: str, topk: int, corpus: str = "") -> list[str]:
        """The contents of the best `topk` passages, best first. `corpus` is not sent: the server holds one.

        Raises RetrievalError when the server has no proper answer in time.
        """
        return list(self._cached(query, topk))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _ask(self, query: str, topk: int) -> tuple[str, ...]:
        """Try, and try again while the retry budget lasts."""
        asked = {"queries": [query]} if self._protocol == "search_r1" else {"query": query}
        body = {**asked, "topk": topk, "return_scores": True}
        budget = RetryBudget(self._total_timeout, FIRST_DELAY, LONGEST_DELAY, self._retries, since=time.monotonic())
        while True:
            try:
                answer = self._server.post("", body, timeout=min(self._server.timeout, max(budget.left, LEAST_TIMEOUT)))
                return self._read(answer)[:topk]
            except Refused as error:
                raise RetrievalError(str(error)) from error
            except Unavailable as error:
                pause = budget.pause()
                if pause is None:
                    tries = f"({budget.failures} tries)"
                    raise RetrievalError(f"data.retriever.url={self._server.url}: {error} {tries}") from error
            time.sleep(pause)

    def _read(self, answer: Any) -> tuple[str, ...]:
        """The passages of an answer, of a server that puts scores beside its documents or leaves them out."""
        try:
            (found,) = answer["result"]
            if not isinstance(found, list):
                raise TypeError(f"{found!r} is no list")
            documents = [document for document in map(_document, found) if not _is_blank(document)]
            return tuple(read_contents(document)[:MAX_PASSAGE] for document in documents)
        except (ValueError, KeyError, TypeError) as error:
            shown = json.dumps(answer, ensure_ascii=False)[:80]
            raise RetrievalError(
                f"data.retriever.url={self._server.url}: expected {{'result': [[{{'document': {{'contents'}}}}, …]]}}, "
                f"found {shown}"
            ) from error


def _document(item: Any) -> Any:
    return item["document"] if isinstance(item, dict) and "document" in item else item


def _is_blank(document: Any) -> bool:
    """A passage without a word, as indexes with gaps return it: it is passed over."""
    if not isinstance(document, dict):
        return document is None
    text = document.get("contents", document.get("text", "no such field"))
    return text is None or (isinstance(text, str) and not text.strip())
