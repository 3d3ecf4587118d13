"""The table of scripts/train_real.py, and that all of its commands compose."""

import json
import sys

import pytest

from tests.helpers.tiny_runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import train_real


@pytest.fixture
def commands(monkeypatch, tmp_path, capsys):
    """What the script runs, each with a summary in its place."""
    asked = []

    def run(script, directory, *overrides):
        asked.append((script, overrides))
        folder = tmp_path / directory.name
        folder.mkdir(exist_ok=True)
        figures = {"success": 0.5, "success/low": 0.25, "success/high": 0.75, "f1": 0.6, "format": 1.0, "calls": 2.0}
        (folder / "summary.json").write_text(json.dumps(figures))

    monkeypatch.setattr(train_real, "run", run)
    table = train_real.table
    monkeypatch.setattr(train_real, "table", lambda rows: table({k: tmp_path / v.name for k, v in rows.items()}))
    monkeypatch.setattr(sys, "argv", ["train_real.py", "--seeds", "0", "1"])
    train_real.main()
    return asked


def test_every_command_composes_and_the_table_has_a_row_an_evaluation(commands, composed, capsys):
    for script, overrides in commands:
        composed(*overrides, config_name=script.removesuffix(".py"))
    assert [script for script, _ in commands].count("train.py") == 4
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 + 3 + 4
    assert lines[2] == "| from memory | 0.500 (0.250–0.750) | 0.60 | 1.00 | 2.00 |"
    assert lines[-1].startswith("| GRPO, seed 1 |")
