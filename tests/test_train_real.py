"""The tables of scripts/train_real.py, what it does again, and that all of its commands compose."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import train_real

FIGURES = {"success": 0.5, "success/low": 0.25, "success/high": 0.75, "f1": 0.6, "format": 1.0, "calls": 2.0}
FIGURES |= {"iterations": 24, "seconds/rollout": 240.0, "seconds/scoring": 120.0, "seconds/update": 480.0}
FIGURES |= {"tokens/useful": 48_000, "tokens/forwarded": 96_000}


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What the script has Python run; each leaves a summary, as the real ones do."""
    asked = []

    def run(command, check, cwd):
        asked.append((Path(command[1]), command[2:]))
        directory = Path(command[-1].removeprefix("hydra.run.dir="))
        directory.mkdir(parents=True)
        (directory / "summary.json").write_text(json.dumps(FIGURES))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["train_real.py", "--seeds", "0", "1", "--output", str(tmp_path / "out")])
    return asked


def test_every_command_composes_and_tables_have_a_row_each(commands, composed, capsys):
    train_real.main()
    for script, overrides in commands:
        assert script.exists()
        composed(*overrides, config_name=script.stem)
    assert [script.stem for script, _ in commands].count("train") == 4
    scores, costs = (table.splitlines() for table in capsys.readouterr().out.strip().split("\n\n")[-2:])
    assert len(scores) == 2 + 3 + 4 and len(costs) == 2 + 4
    assert scores[2] == "| from memory | 0.500 (0.250–0.750) | 0.60 | 1.00 | 2.00 |"
    assert costs[-1] == "| GRPO, seed 1 | 10 | 5 | 20 | 2000 | 4000 |"


def test_only_what_did_not_come_to_its_end_is_done_again(commands, tmp_path):
    train_real.main()
    everything = len(commands)
    half_done = tmp_path / "out" / "grpo_small-1"
    (half_done / "done").unlink()
    (half_done / "leftover").touch()
    train_real.main()
    assert len(commands) == everything + 1 and commands[-1][1][-1] == f"hydra.run.dir={half_done}"
    assert (half_done / "done").exists() and not (half_done / "leftover").exists()


def test_a_command_that_fails_has_the_last_word(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "train_real.py"), "--questions", "0", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: questions=0: expected an integer >= 1 or null\n")
