"""Training in a few seconds: the entry point in the test's process and in one of its own, the loop without files."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "src" / "a2tgpo" / "policies" / "tiny"
SMALL = (
    "debug=default",
    "data.module.group_size=2",
    "data.module.val_tasks=4",
    "data.module.test_tasks=4",
    "trainer.detect_anomaly=false",
    "callbacks.nothing_learned.patience=1000000",  # a random policy never learns anything
)


def fit(config: DictConfig, callbacks: Sequence[Callback], **changes: object) -> Trainer:
    """Train without writing files or, unless `changes` say otherwise, validating."""
    data = instantiate(config.data.module, _convert_="all")
    learner = instantiate(config.model.module, _convert_="all")
    settings = {"enable_checkpointing": False, "limit_val_batches": 0, "detect_anomaly": False} | changes
    trainer = instantiate(config.trainer, callbacks=list(callbacks), logger=False, **settings)
    trainer.fit(learner, data)
    return trainer


def start(script: str, *overrides: str) -> subprocess.Popen:
    """`python src/<script> …` in a process of its own."""
    command = [sys.executable, str(ROOT / "src" / script), *overrides]
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT}"  # the tests' own parts are found too
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def finish(process: subprocess.Popen, timeout: float) -> tuple[str, str]:
    """Its output, once it has ended; whoever hangs is killed with all its children."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def table(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the timings."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in csv.DictReader(file)]


def checkpoint(run_dir: Path, name: str = "last") -> dict:
    """A checkpoint as a resuming run reads it."""
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(a: object, b: object) -> bool:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


FIGURES = {
    "val/success/start": 0.1,
    "val/success/best": 0.5,
    "val/success/final": 0.4,
    "test/success": 0.3,
    "update/clip_fraction": 0.0,
    "seconds/total": 60.0,
}
CURVES = "iteration,train/success,val/success\n0,,0.1\n1,0.2,0.5\n"


def leave_run(directory: Path, seed: int, overrides: str = "", experiment: str = "a2tgpo", **figures: float) -> Path:
    """The files of a finished run whose numbers are known beforehand; returns its directory."""
    directory.mkdir(parents=True)
    summary = {"experiment": experiment, "seed": seed, "overrides": overrides, **FIGURES, **figures}
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "metrics.csv").write_text(CURVES)
    return directory
