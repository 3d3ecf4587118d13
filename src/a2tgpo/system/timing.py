"""Where the time goes: rollout, scoring, update, validation."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Seconds spent in each phase, and which one is under way."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self.on_start: Callable[[str], None] = lambda name: None

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last lap."""
        spent = {name: seconds - self._before[name] for name, seconds in self.seconds.items()}
        self._before = self.seconds.copy()
        return spent

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what runs inside under `name`."""
        self.on_start(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
