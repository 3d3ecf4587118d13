"""How far something long is, for whoever wants to be told."""

import time
from collections.abc import Callable

Told = Callable[[int, int], None]
"""Is told how many of how many are done."""
SECONDS = 30.0
"""Between two lines of a log about the same thing, at least."""


def nobody(done: int, total: int) -> None:
    """Tells no one."""


class Steps:
    """Counts what is done of something that has so many steps, and tells it to `told`."""

    def __init__(self) -> None:
        self.told: Told = nobody
        self._done = self._total = 0

    def begin(self, total: int) -> None:
        """Nothing is done yet."""
        self._done, self._total = 0, total
        self.told(0, total)

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        self.told(self._done, self._total)


class SlowLines:
    """Has `say` say a line, but none within `SECONDS` of the one before, nor of its own beginning."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.said()

    def said(self) -> None:
        """Somebody has said something else."""
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        """Say `line`, if it is time."""
        if time.monotonic() - self._last >= SECONDS:
            self._say(line)
            self.said()
