"""Calling a tool that may fail or hang."""

from collections.abc import Callable, Mapping
from typing import Any

from a2tgpo.system.daemon_threads import SIDE_BY_SIDE, DaemonThreads

_THREADS = DaemonThreads(SIDE_BY_SIDE, "tool")


def call_with_timeout(tool: Callable[..., Any], timeout: float, arguments: Mapping[str, Any]) -> Any:
    """`tool(**arguments)`, in a thread. Raises whatever the tool raises, and TimeoutError after `timeout` seconds.

    A tool that never returns holds up neither later calls nor the end of the process.
    """
    future = _THREADS.submit(lambda: tool(**arguments))
    try:
        return future.result(timeout)
    finally:
        _THREADS.abandon(future)
