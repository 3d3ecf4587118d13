"""SIGTERM and Ctrl-C end a process at once, whatever it is doing."""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)
GRACE = 6.0
"""Seconds to tidy up in; a scheduler gives thirty, a container ten."""
_PR_SET_PDEATHSIG = 1


class Interrupted(SystemExit):
    """A signal has come: unless somebody catches it the exit code is 128 + its number, as a shell has it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` in the main thread, in an event loop too.

    After `GRACE` seconds a process that has not ended is ended: the main thread may hang in a collective or a library,
    where Python cannot raise.
    """
    before = {number: signal.signal(number, _raise) for number in ENDING}
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    woken = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(receiver,), daemon=True, name="signals").start()
    try:
        yield
    except Interrupted:
        raise  # the watch goes on: threads of libraries may hold up the end of the process
    except BaseException:
        _let_go(before, woken, sender)
        raise
    else:
        _let_go(before, woken, sender)


def end_with_parent() -> None:
    """Have the system end this process as soon as the one that started it is gone. Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)  # nothing is to disturb the tidying up
    with suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)  # it would report what its tasks were ended by
    raise Interrupted(number)


def _let_go(handlers: dict, wakeup_fd: int, sender: int) -> None:
    signal.set_wakeup_fd(wakeup_fd)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.close(sender)


def _end_late(receiver: int) -> None:
    """The system writes the number of each signal to the pipe, even where the main thread cannot look at it."""
    with open(receiver, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] in ENDING:
                time.sleep(GRACE)
                os._exit(128 + number[0])
