"""The short table at the end of a run, and what to try next."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from a2tgpo.system.entry_points import as_called
from a2tgpo.system.files import read_json_file
from a2tgpo.system.overrides import carried, is_of_method
from a2tgpo.viewer.page import PAGE

SHIPPED = {"data": "default", "model/policy": "tiny"}
"""What `configs/train.yaml` chooses by itself."""
PAIRS = {"a2tgpo": "grpo", "a2tgpo_pretrained": "grpo_pretrained", "a2tgpo_small": "grpo_small"}
TWINS = PAIRS | {other: one for one, other in PAIRS.items()}
"""Experiments that differ from each other in the method alone."""


def print_report(run_dir: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> None:
    """Success in validation and in the test, where everything is, and what to try next: with the model and data of this
    run, of which `overrides` and the `choices` of groups tell. A debugging run leads to nothing. Last its page.
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
    debugging = any(override.startswith("debug=") for override in overrides)
    commands = {} if debugging else next_commands(summary["experiment"], overrides, choices, run_dir, tested)
    for i, (title, command) in enumerate(commands.items()):
        console.print(f"{'' if i else 'next:':<6}{title:<25} {command}", soft_wrap=True, markup=False, highlight=False)
    if (page := run_dir / PAGE).is_file():
        console.print(f"every turn: {page}", soft_wrap=True, markup=False, highlight=False)


def next_commands(
    experiment: str | None, overrides: Sequence[str], choices: Mapping[str, str], run_dir: Path, tested: str
) -> dict[str, str]:
    """Commands by what they do, as they are typed in a shell; what the run was told beside its experiment is not said
    again (`like=`)."""
    place = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    named = [f"experiment={experiment}"] if experiment else []
    told = [override for override in carried(overrides) if not override.startswith("experiment=")]
    same = [f"like={place}"] if told else named
    checkpoint = quoted(place / "checkpoints" / f"{tested}.ckpt")
    commands = {"eight samples a question": ["src/eval.py", *same, "samples=8", f"ckpt_path={checkpoint}"]}
    if rival := _rival(experiment, choices):
        kept = any(not is_of_method(override) for override in told)
        commands["another method"] = ["src/train.py", *same[: int(kept)], f"experiment={rival}"]
    outcome = "z" if choices["model/outcome"] == "centre" else "centre"
    commands["swap one part"] = ["src/train.py", *same, f"model/outcome={outcome}"]
    return {title: as_called(f"python {shlex.join(words)}") for title, words in commands.items()}


def _rival(experiment: str | None, choices: Mapping[str, str]) -> str | None:
    """An experiment that differs in the method alone; where there is none, GRPO on the task that ships."""
    if experiment in TWINS:
        return TWINS[experiment]
    return "grpo" if all(choices[group] == shipped for group, shipped in SHIPPED.items()) else None


def quoted(path: Path) -> str:
    """`path` as a value of a Hydra override."""
    if re.fullmatch(r"[\w./:-]+", str(path), re.ASCII):
        return str(path)
    return "'" + str(path).replace("\\", r"\\").replace("'", r"\'") + "'"
