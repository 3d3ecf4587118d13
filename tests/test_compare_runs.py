"""scripts/compare_runs.py tables the runs of a method as one, and says where its gain falls."""

import importlib.util
import json
import subprocess
import sys

import pytest

from a2tgpo.evaluation.runs import read_runs
from tests.helpers.tiny_runs import ROOT, leave_run


@pytest.fixture(scope="module")
def compare_runs():
    spec = importlib.util.spec_from_file_location("compare_runs", ROOT / "scripts" / "compare_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rollouts(tmp_path):
    (tmp_path / "rollouts").mkdir()
    return tmp_path / "rollouts"


def test_a_cell_is_the_mean_over_seeds_with_the_lowest_and_the_highest(compare_runs, tmp_path):
    runs = [leave_run(tmp_path / str(seed), seed, "model/x=y", **{"test/success": 0.3 + seed}) for seed in (0, 1)]
    row = compare_runs.table(read_runs(runs)).splitlines()[-1]
    assert row.startswith("| a2tgpo model/x=y | 0, 1 | 0.100 [0.100, 0.100] | 0.500 [0.500, 0.500] | ")
    assert " | 0.800 [0.300, 1.300] | 0.500 [0.500, 0.500] | " in row and row.endswith(" | 1.0 [1.0, 1.0] |")


def test_texts_with_unusual_line_ends_are_one_line(compare_runs, rollouts):
    line = json.dumps({"text": "a\u2028b\x85c", "gain": [1.0, 3.0], "has_gain": [True, True]}, ensure_ascii=False)
    (rollouts / "1.jsonl").write_text(f"{line}\n", encoding="utf-8")
    assert compare_runs.last_turn_share(rollouts) == 0.75


def test_a_file_of_no_trajectories_is_named(compare_runs, rollouts):
    (rollouts / "1.jsonl").write_text('{"gain": [1.0]}\n')
    with pytest.raises(ValueError, match=r"expected a trajectory a line") as error:
        compare_runs.last_turn_share(rollouts)
    assert str(error.value).startswith(f"{rollouts / '1.jsonl'}: ")


@pytest.mark.slow
def test_command_says_what_is_wrong_in_one_line(tmp_path):
    runs = [str(leave_run(tmp_path / name, 0)) for name in ("a", "b")]
    command = [sys.executable, str(ROOT / "scripts" / "compare_runs.py"), *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {runs[1]}: a2tgpo with seed 0, as {runs[0]}; expected one of each seed\n"
