"""The moments of a run at which something may happen to it: a phase begins, a file is opened, a file gets its name."""

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from lightning import Callback


class Fault(Callback):
    """Does `deed` to its own process at the moment number `at`, and writes time and name of every moment to `diary`.

    `kill`: SIGKILL. `cut:N`: the system kills it once a file has N bytes. `fill:N`: files take N bytes and no more.
    `signal:S:D`: signal S after D seconds.
    """

    def __init__(self, at, deed, diary):
        self.at, self.deed, self.diary, self.count = at, deed, Path(diary), 0
        sys.addaudithook(self.heard)

    def setup(self, trainer, pl_module, stage):
        pl_module.phases.on_start = lambda phase: self.moment(f"{phase} begins")

    def heard(self, event, arguments):
        if event == "open" and str(arguments[0]).endswith(".part") and "w" in (arguments[1] or ""):
            self.moment(f"{Path(arguments[0]).stem} is opened")
        elif event == "os.rename" and str(arguments[0]).endswith(".part"):
            self.moment(f"{Path(arguments[1]).name} gets its name")

    def moment(self, name):
        with self.diary.open("a") as file:
            file.write(f"{time.time()} {name}\n")
        if self.count == self.at:
            self.do(*self.deed.split(":"))
        self.count += 1

    def do(self, deed, number=0, delay=0):
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed == "signal":
            threading.Timer(float(delay), os.kill, (os.getpid(), int(number))).start()
        else:
            if deed == "cut":
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), resource.RLIM_INFINITY))


def fault(at, deed, diary):
    """The overrides that have a run suffer it."""
    target = "+callbacks.fault._target_=tests.faults.moments.Fault"
    return (target, f"+callbacks.fault.at={at}", f"+callbacks.fault.deed='{deed}'", f"+callbacks.fault.diary={diary}")


def moments(diary):
    """(time, name) of the moments that a run has come to."""
    lines = Path(diary).read_text().splitlines() if Path(diary).is_file() else []
    return [(float(line.split()[0]), line.split(maxsplit=1)[1]) for line in lines]
