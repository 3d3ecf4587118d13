"""Where the time goes: rollout, scoring, update, validation."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from a2tgpo.system.progress import Told, nobody


class PhaseTimer:
    """Seconds spent in each phase, which one is under way, and how far."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self.under_way = ""
        """The phase that was begun last."""
        self.on_start: Callable[[str], None] = lambda name: None
        self.on_step: Told = nobody

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last lap."""
        spent = {name: seconds - self._before[name] for name, seconds in self.seconds.items()}
        self._before = self.seconds.copy()
        return spent

    def step(self, done: int, total: int) -> None:
        """So much of the phase that is under way is done."""
        self.on_step(done, total)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what runs inside under `name`."""
        self.under_way = name
        self.on_start(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
