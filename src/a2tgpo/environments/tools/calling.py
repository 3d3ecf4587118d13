"""Calling a tool that may fail or hang."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any


def call_with_timeout(tool: Callable[..., Any], timeout: float, arguments: Mapping[str, Any]) -> Any:
    """`tool(**arguments)`, in a thread of its own. Raises whatever the tool raises, and TimeoutError after `timeout`
    seconds.

    The thread is a daemon: a tool that never returns holds up neither later calls nor the end of the process.
    """
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(tool(**arguments))
        except Exception as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="tool").start()
    return future.result(timeout)
