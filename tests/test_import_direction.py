"""The maths and the strategies stand alone: importing them brings in no framework."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "a2tgpo"
STRATEGIES = (
    "signals",
    "normalizers",
    "accumulators",
    "combiners",
    "clippers",
    "ratios",
    "surrogates",
    "aggregations",
    "corrections",
)
FRAMEWORKS = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "transformers"}


def imported(modules):
    """Top-level packages in memory after a fresh interpreter imported `modules`."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_maths_and_strategies_import_no_framework():
    files = [path for folder in STRATEGIES for path in sorted((PACKAGE / "method" / folder).glob("[!_]*.py"))]
    assert {path.parent.name for path in files} == set(STRATEGIES)
    modules = ["a2tgpo.method.method", *(f"a2tgpo.method.{p.parent.name}.{p.stem}" for p in files)]
    assert not imported(modules) & FRAMEWORKS


@pytest.mark.parametrize("framework", ["hydra", "omegaconf"])
def test_the_check_sees_a_framework(framework):
    assert framework in imported([framework])


def test_the_package_itself_imports_nothing_heavy():
    assert not imported(["a2tgpo"]) & (FRAMEWORKS | {"torch", "numpy"})
