"""scripts/make_forks.py: its commands compose, and each policy is forked into a file of its own."""

import subprocess
import sys

from tests.helpers.tiny_runs import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import make_forks


def test_every_command_composes_and_each_policy_has_a_file(composed, monkeypatch, tmp_path):
    asked = []

    def run(script, directory, *overrides):
        asked.append((script, overrides))
        if script == "train.py":
            (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
            (directory / "checkpoints" / "last.ckpt").touch()

    monkeypatch.setattr(make_forks, "run", run)
    monkeypatch.setattr(make_forks, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_forks.py", "mine", "data=calculator", "--output", str(tmp_path)])
    make_forks.main()
    configs = [composed(*overrides, config_name=script.removesuffix(".py")) for script, overrides in asked]
    assert [script for script, _ in asked] == ["train.py"] * 2 + ["credit.py"] * 3
    assert [config.trainer.max_epochs for config in configs[:2]] == [5, 20]
    assert configs[0].ckpt_path is None and configs[1].ckpt_path.endswith("run/checkpoints/last.ckpt")
    saved = [(config.save, config.ckpt_path and config.ckpt_path.rpartition("/")[2]) for config in configs[2:]]
    files = [str(tmp_path.resolve() / f"mine-{name}.npz") for name in ("start", "middle", "late")]
    assert saved == list(zip(files, [None, "5.ckpt", "20.ckpt"], strict=True))
    assert all(config.frozen is None and config.samples == 8 for config in configs[2:])
    assert all("Arithmetic" in config.data.tasks._target_ for config in configs)


def test_a_command_that_fails_has_the_last_word():
    command = [sys.executable, str(ROOT / "scripts" / "make_forks.py"), "mine", "experiment=nope"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and "Could not find 'experiment/nope'" in line
