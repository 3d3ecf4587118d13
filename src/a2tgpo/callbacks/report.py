"""The short table at the end of a run, and what to try next."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from a2tgpo.system.files import read_json_file

SHIPPED = {"data": "default", "model/policy": "tiny"}
"""What `configs/train.yaml` chooses by itself."""


def print_report(run_dir: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> None:
    """Success in validation and in the test, where everything is, and what to try next: with the `overrides` of this
    run that say which model and data it is about; `choices` are those of its groups. A debugging run leads to nothing.
    """
    summary = read_json_file(run_dir / "summary.json")
    tested = "best" if (run_dir / "checkpoints" / "best.ckpt").is_file() else "last"
    table = Table(title=f"success of {summary['experiment'] or 'no experiment'}, seed {summary['seed']}")
    columns = {name: f"val/success/{name}" for name in ("start", "best", "final")} | {
        f"test ({tested})": "test/success"
    }
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(*(f"{summary[key]:.3f}" if key in summary else "–" for key in columns.values()))
    console = Console()
    console.print(table)
    console.print(f"run directory: {run_dir}", soft_wrap=True)
    if any(override.startswith("debug=") for override in overrides):
        return
    checkpoint = run_dir / "checkpoints" / f"{tested}.ckpt"
    commands = next_commands(summary["experiment"], overrides, choices, checkpoint)
    for i, (title, command) in enumerate(commands.items()):
        console.print(f"{'' if i else 'next:':<6}{title:<25} {command}", soft_wrap=True, markup=False, highlight=False)


def next_commands(
    experiment: str | None, overrides: Sequence[str], choices: Mapping[str, str], checkpoint: Path
) -> dict[str, str]:
    """Commands by what they do, as they are typed in a shell."""
    own = [f"experiment={experiment}"] if experiment else []
    same = [o for o in overrides if o.lstrip("+~").startswith(("data", "model", "hydra.searchpath"))]
    commands = {
        "eight samples a question": ["src/eval.py", *own, *same, "samples=8", f"ckpt_path={quoted(checkpoint)}"]
    }
    if all(chosen == choices[group] or f"{group}={choices[group]}" in overrides for group, chosen in SHIPPED.items()):
        rival = "a2tgpo" if experiment == "grpo" else "grpo"
        kept = [o for o in same if o.lstrip("+~").startswith(("data", "model/policy", "model.policy", "hydra"))]
        commands["another method"] = ["src/train.py", f"experiment={rival}", *kept]
    outcome = "z" if choices["model/outcome"] == "centre" else "centre"
    others = [o for o in same if not o.lstrip("+~").startswith(("model/outcome", "model.outcome"))]
    commands["swap one part"] = ["src/train.py", *own, *others, f"model/outcome={outcome}"]
    return {title: f"python {shlex.join(words)}" for title, words in commands.items()}


def quoted(path: Path) -> str:
    """`path` as a value of a Hydra override."""
    if re.fullmatch(r"[\w./:-]+", str(path), re.ASCII):
        return str(path)
    return "'" + str(path).replace("\\", r"\\").replace("'", r"\'") + "'"
