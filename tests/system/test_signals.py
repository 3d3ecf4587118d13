"""SIGTERM and Ctrl-C end a process at once: in an event loop, in a library, wherever it is."""

import os
import signal
import subprocess
import sys
import time

import pytest

from a2tgpo.system.signals import ending_on_signals
from tests.helpers.tiny_runs import ROOT

WORK = {
    "python": "while True: pass",
    "event loop": """
import asyncio
async def turn():
    while True: await asyncio.sleep(0.001)
async def play():
    await asyncio.gather(*(turn() for _ in range(9)))
asyncio.run(play())""",
    "step of an event loop": """
import asyncio
async def turn():
    while True: pass
async def play():
    await asyncio.gather(*(turn() for _ in range(9)))
asyncio.run(play())""",
    "library that never returns": "import ctypes; ctypes.PyDLL(None).sleep(60)",
    "thread that holds up the end": """
import threading
threading.Thread(target=time.sleep, args=(60,)).start()
time.sleep(60)""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", WORK)
def test_process_ends_at_once_with_the_code_of_the_signal(name, number):
    code = "import time\nfrom a2tgpo.system import signals\nsignals.GRACE = 0.2\nwith signals.ending_on_signals():\n"
    work = f"print('at work', flush=True)\n{WORK[name].strip()}"
    code += "\n".join(f"    {line}" for line in work.splitlines())
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": os.environ | {"PYTHONPATH": str(ROOT / "src")},
    }
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    assert process.returncode == 128 + number and errors == b""


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with ending_on_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(ValueError, match="wrong"), ending_on_signals():
        raise ValueError("wrong")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
