"""Tools are called side by side, each from the moment its time begins to run."""

import threading
from concurrent.futures import ThreadPoolExecutor

from a2tgpo.environments.tools.calling import call_with_timeout
from a2tgpo.system.daemon_threads import SIDE_BY_SIDE


def test_no_call_waits_for_a_thread_while_its_time_runs():
    all_there = threading.Barrier(SIDE_BY_SIDE)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as episodes:
        calls = [episodes.submit(call_with_timeout, all_there.wait, 60.0, {}) for _ in range(SIDE_BY_SIDE)]
    assert sorted(call.result() for call in calls) == list(range(SIDE_BY_SIDE))
