"""Threads that are reused, bounded, and replaced where a call never returns."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from a2tgpo.system.daemon_threads import DaemonThreads
from tests.helpers.tiny_runs import ROOT


def test_results_and_exceptions_come_back():
    threads = DaemonThreads(2, "t")
    futures = [threads.submit(lambda n=n: 10 // n) for n in (1, 2, 0, 5)]
    assert [f.result(5) for f in (futures[0], futures[1], futures[3])] == [10, 5, 2]
    with pytest.raises(ZeroDivisionError):
        futures[2].result(5)


def test_a_thread_keeps_nothing_of_a_call_that_is_over():
    class Large:
        """Something to be freed."""

    threads, held = DaemonThreads(1, "t"), Large()
    seen = weakref.ref(held)
    threads.submit(lambda held=held: held).result(5)
    del held
    for _ in range(500):  # the thread is on its way back
        gc.collect()
        if seen() is None:
            return
        time.sleep(0.01)
    pytest.fail("an idle thread keeps the last call")


def test_no_more_calls_run_at_once_than_there_are_threads():
    threads, together, most, lock = DaemonThreads(3, "t"), 0, 0, threading.Lock()

    def call():
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        threading.Event().wait(0.01)
        with lock:
            together -= 1

    for future in [threads.submit(call) for _ in range(12)]:
        future.result(5)
    assert most == 3


def test_threads_are_kept_for_later_calls():
    threads = DaemonThreads(4, "t")
    used = {threads.submit(threading.get_ident).result(5) for _ in range(20)}
    assert len(used) <= 2  # a thread says that it is idle only after its result is out


def test_an_abandoned_call_gives_its_place_to_another():
    threads, never = DaemonThreads(1, "t"), threading.Event()
    hung = threads.submit(never.wait)
    waiting = threads.submit(lambda: "done")
    with pytest.raises(TimeoutError):
        waiting.result(0.05)
    threads.abandon(hung)
    assert waiting.result(5) == "done"
    never.set()


def test_an_abandoned_call_that_has_not_begun_is_never_made():
    threads, gate, made = DaemonThreads(1, "t"), threading.Event(), []
    blocking = threads.submit(gate.wait)
    late = threads.submit(lambda: made.append(1))
    threads.abandon(late)
    gate.set()
    blocking.result(5)
    assert threads.submit(lambda: "next").result(5) == "next" and made == []


def test_a_call_that_never_returns_does_not_hold_up_the_end_of_the_process():
    code = (
        "import threading; from a2tgpo.system.daemon_threads import DaemonThreads; "
        "DaemonThreads(1, 't').submit(threading.Event().wait)"
    )
    environment = {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, check=False).returncode == 0
