"""The example in one file runs, learns from what it shows, and needs neither Lightning nor Hydra."""

import subprocess
import sys

from tests.helpers.tiny_runs import ROOT

LOOP = ROOT / "examples" / "minimal_loop.py"


def test_the_minimal_loop_runs_without_a_framework():
    code = (
        f"import runpy, sys; loop = runpy.run_path({str(LOOP)!r}); rewards = loop['train'](2); "
        "assert len(rewards) == 2 and all(-1 <= r <= 1 for r in rewards); "
        "assert not {'lightning', 'hydra', 'omegaconf'} & {name.split('.')[0] for name in sys.modules}"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "iteration 2: reward" in done.stdout


def test_the_minimal_loop_is_one_page():
    assert len(LOOP.read_text().splitlines()) <= 120
