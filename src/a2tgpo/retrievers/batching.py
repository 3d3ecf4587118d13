"""Searches that are asked for at the same time are carried out together."""

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from a2tgpo.retrievers.protocols import Passage, PassageRetriever


@dataclass(frozen=True)
class _Request:
    queries: list[str]
    topk: int
    answer: Future = field(default_factory=Future)


class Batcher:
    """One thread that owns the retriever and gives it all queries that are waiting, in one `search_many`.

    The first query of a batch waits up to `window` seconds for others; those that come while a batch is searched for
    make up the next one. A batch holds at most `max_batch` queries, or one request that brings more.
    """

    def __init__(self, retriever: PassageRetriever, window: float, max_batch: int) -> None:
        self._retriever, self._window, self._max_batch = retriever, window, max_batch
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="batcher")
        self._thread.start()

    def search_many(self, queries: list[str], topk: int) -> list[list[Passage]]:
        """What the retriever finds; raises what it raises."""
        if not queries:
            return []
        request = _Request(queries, topk)
        self._waiting.put(request)
        return request.answer.result()

    def close(self) -> None:
        """Carry out what is waiting, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, more = self._collect(first)
            self._search(batch)
            if not more:
                return

    def _collect(self, first: _Request) -> tuple[list[_Request], bool]:
        """A batch that starts with `first`, and whether the work goes on after it."""
        batch, end = [first], time.monotonic() + self._window
        while sum(len(request.queries) for request in batch) < self._max_batch:
            try:
                request = self._waiting.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if request is None:
                return batch, False
            batch.append(request)
        return batch, True

    def _search(self, batch: list[_Request]) -> None:
        """The best of each query do not depend on how many are asked for, so the largest `topk` serves all. After a
        failure each request is tried alone, so that a bad query fails nobody but the one who asked."""
        queries = [query for request in batch for query in request.queries]
        try:
            found = self._retriever.search_many(queries, max(request.topk for request in batch))
            if len(found) != len(queries):
                raise ValueError(f"data.retriever: {len(found)} results for {len(queries)} queries; expected one each")
        except Exception as error:  # raised again where each answer is waited for
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for request in batch:
                    self._search([request])
            return
        results = iter(found)
        for request in batch:
            request.answer.set_result([next(results)[: request.topk] for _ in request.queries])
