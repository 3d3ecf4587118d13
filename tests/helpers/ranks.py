"""Several ranks in one process: each is a thread, and what one gathers waits for the others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local
from typing import Any

import pytest

from a2tgpo.method import method
from a2tgpo.scoring import noise
from a2tgpo.system import distributed

PATIENCE = 30.0
"""Seconds after which a rank that waits for the others alone gives up."""


def on_ranks(monkeypatch: pytest.MonkeyPatch, n_ranks: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(rank)` returns on each rank, all under way at once."""
    here, together = local(), Barrier(n_ranks, timeout=PATIENCE)
    values: list[Any] = [None] * n_ranks

    def gather(value: Any) -> list[Any]:
        values[here.rank] = value
        together.wait()
        gathered = list(values)
        together.wait()  # nobody writes the next values before all have read these
        return gathered

    def run(rank: int) -> Any:
        here.rank = rank
        return work(rank)

    for module in (distributed, method):
        monkeypatch.setattr(module, "rank_and_world_size", lambda: (here.rank, n_ranks))
    for module in (distributed, noise):
        monkeypatch.setattr(module, "gather", gather)
    with ThreadPoolExecutor(n_ranks) as pool:
        results = list(pool.map(run, range(n_ranks)))
    monkeypatch.undo()
    return results
