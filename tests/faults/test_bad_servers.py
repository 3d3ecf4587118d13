"""Every kind of bad server against every client, and the worst through whole runs: an answer, a counted failure or one
line, in bounded time and memory."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from a2tgpo.engines.scripted import ScriptedEngine
from a2tgpo.engines.vllm import VllmEngine
from a2tgpo.engines.weight_sync.weights import Served
from a2tgpo.rollouts.protocols import Sampling
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.http_client import HttpClient
from tests.helpers.episodes import tool_use
from tests.helpers.loops import loop
from tests.helpers.misbehaving_server import FOUND, Misbehaving, passages
from tests.helpers.shipped import text_tags
from tests.helpers.tiny_runs import ROOT, SHIPPED, SMALL, checkpoint

pytestmark = pytest.mark.faults

MIB = 1 << 20
GIB = 1024
"""MiB."""


def wire(body, head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", length=None):
    """An answer as words on the wire."""
    return [head + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length), body]


def huge(mib):
    """An answer whose one passage has so many MiB."""
    before, after = passages("@").split(b"@")
    yield from wire(before, length=len(before) + mib * MIB + len(after))
    for _ in range(mib):
        yield b"x" * MIB
    yield after


def drip(word):
    """Byte by byte."""
    return [bytes([byte]) for byte in word]


LASTING = {
    "not found": 404,
    "broken for ever": 500,
    "too many requests": 429,
    "out of time": 408,
    "redirect": 307,
    "never answers": "hang",
    "hangs up": "close",
    "drips its body": lambda: [*wire(b"", length=500), *drip(b"x" * 500)],
    "drips its head": lambda: drip(wire(b"")[0] * 9),
    "cuts off in the middle": lambda: wire(FOUND[:30], length=len(FOUND)),
    "half a JSON": FOUND[:30],
    "speaks no HTTP": lambda: [b"\x15\x03\x01\x00\x02\x02\x16"],
    "an empty answer": b"",
    "HTML": b"<!DOCTYPE html><html><body>welcome</body></html>",
    "another schema": b'{"results": {"hits": [{"text": "a"}]}}',
    "a list": b"[[1, 2]]",
    "null": b'{"result": null, "choices": null}',
    "nulls": b'{"result": [[{"document": {"id": null}}]], "choices": [null]}',
    "latin-1": '{"result": [["é"]], "choices": "é"}'.encode("latin-1"),
    "nested too deep": b"[" * 100_000,
    "100 MB": lambda: huge(100),
    "100 MB of an error": lambda: [b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n" % (100 * MIB), *[b"x" * MIB] * 100],
    "an endless head": lambda: [b"HTTP/1.1 200 OK\r\n", *[b"x: " + b"y" * MIB + b"\r\n"] * 100],
}
"""What a server does to every request, and no client can use."""
HARMLESS = {
    "breaks once": (lambda n: 500 if n == 0 else FOUND, 1),
    "hangs up once": (lambda n: "close" if n == 0 else FOUND, 1),
    "another content type": (lambda n: lambda: wire(FOUND, b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"), 1),
    "another charset in its head": (
        lambda n: lambda: wire(FOUND, b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-16\r\n"),
        1,
    ),
    "too many passages": (lambda n: passages(*["a"] * 5000), 3),
    "blanks among passages": (lambda n: passages(None, "", "a", " "), 1),
    "3 MB": (lambda n: lambda: huge(3), 1),
}
"""What a server does to request n, and how many passages a client makes of it."""


def serving(kind, script):
    """A server that does what `script(n)` says; one that drips takes its time between words."""
    server = Misbehaving(script)
    server.pause = 0.05 if kind.startswith("drips") else 0.0
    return server


@contextmanager
def lasting(kind):
    """The address of a server of this kind."""
    if kind == "closed port":
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}/retrieve"
        yield url
    else:
        with serving(kind, lambda n: LASTING[kind]) as server:
            yield server.url


# ---- A retriever -----------------------------------------------------------------------------------------------------


def search_once(url):
    """What came of a search in a process of its own."""
    command = [sys.executable, "-m", "tests.helpers.search_once", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", [*LASTING, "closed port"])
def test_a_search_fails_in_one_line_and_in_bounded_time_and_memory(kind):
    with lasting(kind) as url:
        done = search_once(url)
    assert isinstance(done["found"], str) and done["found"].startswith(f"data.retriever.url={url}: ")
    assert "\n" not in done["found"] and len(done["found"]) < 600
    assert done["seconds"] < 6 and done["mib"] < 300


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_search_takes_what_can_be_taken(kind):
    script, count = HARMLESS[kind]
    with serving(kind, script) as server:
        done = search_once(server.url)
    assert isinstance(done["found"], list) and len(done["found"]) == count
    assert done["seconds"] < 6 and done["mib"] < 300


# ---- An engine and a reward ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlwaysThere:
    """The server has the weights."""

    def save(self, policy, weights, base):
        return Served(base, "")

    def load(self, server, served):
        pass

    drop = load


@pytest.mark.parametrize("kind", [*LASTING, "closed port"])
def test_an_engine_ends_the_rollout_in_one_line_and_in_bounded_time(random_policy, kind):
    sampling = Sampling(8, ("@@",), False, (1, 2))

    async def sample(engine):
        (session,) = await engine.open(range(10, 20), 1)
        return await engine.extend(session, (), sampling)

    with lasting(kind) as url:
        engine = VllmEngine(url, "policy", AlwaysThere(), 0, timeout=1.0, patience=1.0, max_concurrency=4)
        engine.sync(random_policy)
        began = time.monotonic()
        with pytest.raises(ValueError) as error:
            asyncio.run(sample(engine))
    told = str(error.value)
    assert told.startswith(f"data.engine.url={url}: ") and "\n" not in told and len(told) < 900
    assert time.monotonic() - began < 20


class Judge:
    """A reward that asks a judge on a server."""

    def __init__(self, url):
        self.server = HttpClient(url, 1.0, "data.reward", 4)

    def __call__(self, trajectories):
        return [self.server.post("", {"question": t.task.question}, "score") for t in trajectories]


SCORES = {**LASTING, "NaN": b'{"score": NaN}', "no number": b'{"score": "good"}', "no score": b'{"score": null}'}


@pytest.mark.parametrize("kind", [*SCORES])
def test_a_judge_ends_the_run_in_one_line_and_in_bounded_time(random_policy, kind):
    task = Task("t", "What is the director of Bemi?", ("Varo Tano",))
    answers = tool_use(text_tags("Question: {question}", ("<answer> ", "</answer>")), {})
    with serving(kind, lambda n: SCORES[kind]) as server:
        rollout = loop(ScriptedEngine(lambda key: ["<answer> Varo</answer>"]), answers, reward=Judge(server.url))
        began = time.monotonic()
        with pytest.raises(ValueError) as error:
            rollout.run(random_policy, [(0, task)], 2, (0,), greedy=False)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900
    assert time.monotonic() - began < 20


# ---- Whole runs ------------------------------------------------------------------------------------------------------

OVER_HTTP = (
    "experiment=a2tgpo",
    *SMALL,
    "data.module.group_size=4",
    "trainer.max_epochs=8",
    f"paths.policy_dir={SHIPPED}",
    "data/retriever=http",
    "data.retriever.timeout=1",
    "data.retriever.total_timeout=2",
    "data.retriever.retries=0",
    "data.retriever.cache_size=0",
    "data.environment.tool_timeout=4",
)


def train(url, *overrides):
    """(exit code, lines of output, lines of errors, MiB) of a run."""
    script = ("-m", "tests.helpers.peak_memory", str(ROOT / "src" / "train.py"))
    command = [sys.executable, *script, *OVER_HTTP, f"data.retriever.url={url}", *overrides]
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    (memory,) = [line for line in done.stdout.splitlines() if line.startswith("MiB ")]
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), int(memory.split()[1])


WORST = ["not found", "redirect", "broken for ever", "another schema", "never answers", "100 MB", "drips its head"]


@pytest.mark.parametrize("kind", [*WORST, "closed port"])
def test_a_run_on_a_bad_server_ends_before_it_trains(tmp_path, kind):
    with lasting(kind) as url:
        code, output, errors, mib = train(url, "data.module.val_tasks=16", f"paths.log_dir={tmp_path}")
    assert code == 1 and mib < GIB, (output, errors)
    (error,) = [line for line in errors if line.startswith("error: ")]
    assert error.startswith("error: data.environment.tools.search: none of its last ") and url in error
    assert not any(line.startswith("1/") for line in output)


@pytest.mark.parametrize("kind", WORST)
def test_a_server_that_goes_bad_ends_the_run_which_goes_on_from_its_last_checkpoint(tmp_path, kind):
    with serving(kind, lambda n: FOUND if n < 60 else LASTING[kind]) as server:
        code, output, errors, mib = train(server.url, f"paths.log_dir={tmp_path}")
    assert code == 1 and mib < GIB, (output, errors)
    (error,) = [line for line in errors if line.startswith("error: ")]
    assert error.startswith("error: data.environment.tools.search: none of its last ") and server.url in error
    (directory,) = tmp_path.glob("train/runs/*")
    done = sum(bool(re.match(r"\d/8  ", line)) for line in output)
    assert done >= 1 and checkpoint(directory)["global_step"] == 2 * done
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["interrupted"], summary["iterations"]) == ("SettingError", done)
    with serving("", lambda n: FOUND) as server:
        last = f"ckpt_path={directory}/checkpoints/last.ckpt"
        code, output, errors, _ = train(server.url, last, f"paths.log_dir={tmp_path}")
    assert code == 0 and output[0].startswith(f"resumed after {done} of 8 iterations"), (output, errors)
    assert checkpoint(directory)["global_step"] == 16


@pytest.mark.parametrize("kind", ["3 MB", "too many passages", "another content type"])
def test_a_run_goes_through_on_a_server_that_exaggerates(tmp_path, kind):
    with serving(kind, HARMLESS[kind][0]) as server:
        code, output, errors, mib = train(server.url, "trainer.max_epochs=2", f"paths.log_dir={tmp_path}")
    assert code == 0 and mib < GIB, (output, errors, mib)
