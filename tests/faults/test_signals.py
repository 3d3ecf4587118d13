"""SIGTERM and Ctrl-C in every phase: the process is gone, its files are whole, and what it advises is true."""

import os
import re
import shlex
import signal
import time

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.faults.moments import fault, moments
from tests.faults.runs import SETTINGS, all_of, assert_same_run, figures, resume, run_dir, train
from tests.helpers.tiny_runs import checkpoint, finish, start

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

GONE_WITHIN = 10.0
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def places(names):
    """By name, moments in every phase of a run."""
    first = {name: names.index(f"{name} begins") for name in ("rollout", "scoring", "update")}
    validations = [i for i, name in enumerate(names) if name == "validation begins"]
    saved = [i for i, name in enumerate(names) if name == "last.ckpt is opened"]
    later = {f"{name} again": max(i for i, n in enumerate(names) if n == f"{name} begins") for name in first}
    evaluations = {"start": validations[0], "validation": validations[1], "test": validations[-1]}
    return first | later | evaluations | {"first checkpoint": saved[0], "later checkpoint": saved[-1]}


def advice(output):
    """The checkpoint that the run was told to go on from, or None where it says that there is none."""
    (line,) = [line for line in output.splitlines() if line.startswith("interrupted by ")]
    if line.endswith("; there is no checkpoint yet"):
        return None
    (override,) = shlex.split(re.search(r"to go on, add (.*)$", line)[1])
    return OverridesParser.create().parse_override(override).value()


def test_ends_at_once_in_every_phase(whole, tmp_path):
    directory, names = whole
    by_place = places(names)

    def suffer(case):
        place, number, delay = case
        logs = tmp_path / f"{place}-{number}"
        logs.mkdir()
        deed = f"signal:{int(number)}:{delay}"
        code, output, errors = train(*fault(by_place[place], deed, logs / "diary"), f"paths.log_dir={logs}")
        ended = time.time()
        came = moments(logs / "diary")[by_place[place]][0] + delay
        assert code == CODES[number] and errors == "", output + errors
        assert ended - came < GONE_WITHIN
        mine = run_dir(logs)
        assert figures(mine)["interrupted"] == number.name
        assert not list(mine.rglob("*.part"))
        last = mine / "checkpoints" / "last.ckpt"
        assert advice(output) == (str(last) if last.is_file() else None)
        if last.is_file():
            checkpoint(mine)
            if number == signal.SIGTERM:
                resume(mine)
                assert_same_run(mine, directory)

    all_of(
        [(place, number, delay) for place in by_place for number, delay in zip(CODES, (0.0, 0.03), strict=True)], suffer
    )


@pytest.mark.parametrize("seconds", [0.5, 3.0, 6.0])
def test_ends_at_once_in_set_up(tmp_path, seconds):
    process = start("train.py", *SETTINGS, f"paths.log_dir={tmp_path}", "trainer.max_epochs=1000")
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = finish(process, 60)
    assert time.monotonic() - began < GONE_WITHIN
    assert process.returncode in (143, -signal.SIGTERM) and errors == ""


def long_run(tmp_path, *overrides):
    """A run in the middle of a rollout set that would take hours."""
    diary = tmp_path / "diary"
    settings = (*SETTINGS, "data.module.group_size=100000", *fault(-1, "none", diary), f"paths.log_dir={tmp_path}")
    process = start("train.py", *settings, *overrides)
    deadline = time.monotonic() + 120
    while "rollout begins" not in [name for _, name in moments(diary)]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    time.sleep(3)
    return process


@pytest.mark.parametrize("number", CODES)
def test_a_long_rollout_set_is_left_at_once(tmp_path, number):
    process = long_run(tmp_path)
    process.send_signal(number)
    began = time.monotonic()
    _, errors = finish(process, 60)
    assert time.monotonic() - began < GONE_WITHIN and errors == ""
    assert process.returncode == CODES[number]


@pytest.mark.parametrize("everybody", [False, True])
def test_the_ranks_it_started_go_with_it(tmp_path, everybody):
    process = long_run(tmp_path, "trainer=ddp_cpu")
    send = os.killpg if everybody else os.kill
    send(process.pid, signal.SIGTERM)
    began = time.monotonic()
    finish(process, 60)  # the pipes are closed only when the last of its children is gone
    assert time.monotonic() - began < GONE_WITHIN
    assert process.returncode == 143


def test_the_ranks_it_started_go_when_it_is_killed(tmp_path):
    process = long_run(tmp_path, "trainer=ddp_cpu")
    process.kill()
    began = time.monotonic()
    finish(process, 60)
    assert time.monotonic() - began < GONE_WITHIN
