"""A real vLLM server on loopback, from the environment that scripts/setup_vllm.sh makes."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from a2tgpo.system.http_client import HttpClient, Unavailable
from tests.helpers.tiny_runs import ROOT, SHIPPED

STARTUP = 240
"""Seconds in which a server must have come up."""


class VllmServer:
    """The shipped policy behind vLLM on the CPU; may be killed and started again on its port."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [str(ROOT / "scripts" / "serve_policy.sh"), str(SHIPPED), "--port", str(self.port)]
        command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-lora-rank", "8"]
        command += ["--weight-transfer-config", '{"backend": "ipc"}']
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
        settings["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True
            )
        deadline = time.monotonic() + STARTUP
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def answers(self) -> bool:
        """Does it say which models it has?"""
        try:
            return bool(HttpClient(self.url, 5.0, "data.engine", max_connections=1).get("/v1/models"))
        except Unavailable:
            return False

    def kill(self) -> None:
        """End the server and its workers at once, as a lost machine would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def shared_vllm(tmp_path_factory):
    """One server for all tests; it is killed after them."""
    python = ROOT / ".venv-vllm" / "bin" / "python"
    assert python.is_file(), "no .venv-vllm: run scripts/setup_vllm.sh"
    server = VllmServer(tmp_path_factory.mktemp("vllm") / "server.log")
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.fixture
def vllm(shared_vllm):
    """The server, running."""
    if not shared_vllm.answers():
        shared_vllm.start()
    return shared_vllm
