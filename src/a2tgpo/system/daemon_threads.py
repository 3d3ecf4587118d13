"""Threads for calls that may block, or never return."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")
SIDE_BY_SIDE = 256
"""Episodes that are played side by side by default. With a thread for each, slow calls of all take the time of one, and
none waits for a thread while its time runs."""


class DaemonThreads:
    """Runs calls in up to `size` threads, which are kept for later calls.

    They are daemons, unlike those of `ThreadPoolExecutor`: a call that never returns does not hold up the end of the
    process, and once it is abandoned another thread takes its place.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._calls: SimpleQueue[tuple[Callable[[], object], Future]] = SimpleQueue()
        self._idle, self._lock, self._running = threading.Semaphore(0), threading.Lock(), 0

    def submit(self, call: Callable[[], Result]) -> "Future[Result]":
        """What `call` returns or raises, once a thread has run it."""
        future: Future[Result] = Future()
        self._calls.put((call, future))
        if not self._idle.acquire(blocking=False):
            self._grow()
        return future

    def abandon(self, future: Future) -> None:
        """Nobody waits for `future` any more: if its call has begun, its thread does not count from now on."""
        if not future.cancel() and not future.done():
            with self._lock:
                self._running -= 1
            self._grow()

    def _grow(self) -> None:
        with self._lock:
            if self._running < self._size:
                self._running += 1
                threading.Thread(target=self._work, daemon=True, name=self._name).start()

    def _work(self) -> None:
        while True:
            _run(*self._calls.get())  # whoever waits for the next call keeps nothing of the last
            self._idle.release()


def _run(call: Callable[[], Result], future: "Future[Result]") -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = call()
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)
        else:
            future.set_result(result)
