"""The short table at the end of a run."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def print_report(run_dir: Path, overrides: Sequence[str]) -> None:
    """Success in validation and in the test, where everything is, and what to try next: with the `overrides` of this
    run that say which model and data it is about. A debugging run leads to nothing."""
    summary = json.loads((run_dir / "summary.json").read_text())
    table = Table(title=f"success of {summary['experiment']}, seed {summary['seed']}")
    columns = {name: f"val/success/{name}" for name in ("start", "best", "final")} | {"test (best)": "test/success"}
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*(f"{summary[key]:.3f}" if key in summary else "–" for key in columns.values()))
    console = Console()
    console.print(table)
    console.print(f"run directory: {run_dir}", soft_wrap=True)
    if any(override.startswith("debug=") for override in overrides):
        return
    experiment = summary["experiment"]
    same = "".join(f" {o}" for o in overrides if o.startswith(("data", "model")))
    rival = "grpo" if experiment != "grpo" else "a2tgpo"
    console.print(
        f"next: eight samples a question  python src/eval.py experiment={experiment}{same} samples=8 "
        f"ckpt_path={run_dir}/checkpoints/best.ckpt\n"
        f"      another method            python src/train.py experiment={rival}{same}\n"
        f"      swap one part             python src/train.py experiment={experiment}{same} model/outcome=centre",
        soft_wrap=True,
    )
