"""The most memory a process has held; `python -m tests.helpers.peak_memory SCRIPT …` runs a script and prints it."""

import atexit
import re
import runpy
import sys
from pathlib import Path


def peak_mib() -> int:
    """MiB of this process since it began; getrusage would count its parent's before the fork too."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10


if __name__ == "__main__":
    atexit.register(lambda: print("MiB", peak_mib()))
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
