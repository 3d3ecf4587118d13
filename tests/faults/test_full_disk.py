"""A disk that is full: one clear line, and the run goes on once there is room."""

import os
import subprocess

import pytest

from tests.faults.moments import fault
from tests.faults.runs import all_of, assert_same_run, resume, run_dir, train

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def one_line(errors):
    """The only line on stderr."""
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: /"), line
    return line


def test_no_room_for_any_file(whole, tmp_path):
    directory, names = whole

    def suffer(case):
        at, size = case
        logs = tmp_path / f"{at}-{size}"
        logs.mkdir()
        code, output, errors = train(*fault(at, f"fill:{size}", logs / "diary"), f"paths.log_dir={logs}")
        assert code == 1, output + errors
        assert one_line(errors).endswith("File too large")
        mine = run_dir(logs)
        assert not list(mine.rglob("*.part"))
        if (mine / "checkpoints" / "last.ckpt").is_file():
            resume(mine)
            assert_same_run(mine, directory)

    first = {name: i for i, name in reversed(list(enumerate(names))) if name.endswith("opened")}
    last = max(i for i, name in enumerate(names) if name == "last.ckpt is opened")
    all_of([(at, 100) for at in sorted(first.values())] + [(last, 5_000_000)], suffer)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system; the limit on files is tested above")
def test_a_small_disk(whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=15m", "tmpfs", disk], check=True)
    try:
        code, output, errors = train(f"paths.log_dir={disk}")
        assert code == 1, output + errors
        assert one_line(errors).endswith("No space left on device")
        mine = run_dir(disk)
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        resume(mine)
        assert_same_run(mine, whole[0])
    finally:
        subprocess.run(["umount", disk], check=True)
