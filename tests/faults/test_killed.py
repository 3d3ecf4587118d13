"""kill -9 at any moment: a resumed run is the run that was never interrupted."""

import os
import random
import signal
import time

import pytest

from tests.faults.moments import fault, moments
from tests.faults.runs import SETTINGS, all_of, assert_same_run, resume, run_dir, train
from tests.helpers.tiny_runs import checkpoint, finish, start

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

KILLS, CUTS, BLIND = 14, 8, 4
"""Kills at the beginning of something, inside a write, and at any time."""
CHECKPOINT_BYTES = 7_900_000


def spread(rng, count, total):
    """Numbers below `total`, one in each of `count` equal parts."""
    return [int((i + rng.random()) * total / count) for i in range(count)]


def go_on(logs, whole):
    """Resume, or see that there is nothing to resume; then compare."""
    directory = run_dir(logs)
    if directory is None or not (directory / "checkpoints" / "last.ckpt").is_file():
        return
    checkpoint(directory)  # it can be read
    resume(directory)
    assert_same_run(directory, whole)


def test_killed_where_something_begins(whole, tmp_path):
    directory, names = whole

    def suffer(at):
        logs = tmp_path / str(at)
        logs.mkdir()
        code, output, errors = train(*fault(at, "kill", logs / "diary"), f"paths.log_dir={logs}")
        assert code == -signal.SIGKILL, output + errors
        assert [name for _, name in moments(logs / "diary")] == names[: at + 1]
        go_on(logs, directory)

    phases = [names.index(f"{phase} begins") for phase in ("validation", "rollout", "scoring", "update")]
    after_training = len(names) - 3
    all_of(sorted({*phases, after_training, *spread(random.Random(0), KILLS, len(names))}), suffer)


def test_killed_inside_a_write(whole, tmp_path):
    directory, names = whole
    rng = random.Random(1)
    opened = [i for i, name in enumerate(names) if name.endswith("opened")]
    at = [opened[i] for i in spread(rng, CUTS, len(opened))]
    checkpoints = [i for i in opened if "ckpt" in names[i]]
    at += [checkpoints[i] for i in spread(rng, 3, len(checkpoints))]

    def suffer(case):
        at, size = case
        logs = tmp_path / f"{at}-{size}"
        logs.mkdir()
        code, output, errors = train(*fault(at, f"cut:{size}", logs / "diary"), f"paths.log_dir={logs}")
        assert code == -signal.SIGXFSZ, output + errors
        go_on(logs, directory)

    all_of(
        sorted({(i, rng.randrange(1, CHECKPOINT_BYTES if "ckpt" in names[i] else 500)) for i in at}),
        suffer,
    )


def test_killed_at_any_time(whole, tmp_path):
    def suffer(seconds):
        logs = tmp_path / f"{seconds:.2f}"
        process = start("train.py", *SETTINGS, f"paths.log_dir={logs}")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process, 60)
        go_on(logs, whole[0])

    rng = random.Random(2)
    all_of([rng.uniform(1, 25) for _ in range(BLIND)], suffer)
