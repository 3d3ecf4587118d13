"""Finished runs, read again: by method across seeds, with their curves and figures."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from a2tgpo.system.files import read_json_file

FIGURES = {name: f"val/success/{name}" for name in ("start", "best", "final")} | {"test": "test/success"}
"""What every finished run is known by, and where it stands in summary.json."""
NEEDED = ("experiment", "overrides", "seed", "update/clip_fraction", "seconds/total", *FIGURES.values())
TABLE = "metrics.csv"
SMOOTHED = 5
"""Iterations over which success in training is averaged; each has other questions."""


def read_rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows of a metrics.csv by iteration, without empty cells. Raises ValueError where `path` is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {int(row["iteration"]): row for row in csv.DictReader(file, strict=True)}
        if any(None in row or None in row.values() for row in rows.values()):
            raise ValueError("a row is cut")
    except (KeyError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}; expected the table of a run, a row an iteration") from error
    return {i: {k: v for k, v in row.items() if v != ""} for i, row in rows.items()}


@dataclass(frozen=True)
class Run:
    """What a finished run left in its directory."""

    directory: Path
    summary: Mapping[str, Any]
    rows: Mapping[int, Mapping[str, str]]
    """metrics.csv by iteration."""

    @property
    def method(self) -> str:
        """Experiment and overrides: what runs that differ in their seed alone have in common."""
        return " ".join(filter(None, (self.summary["experiment"], self.summary["overrides"])))

    def curve(self, column: str) -> dict[int, float]:
        """A column of metrics.csv by iteration, where it has a value."""
        return {iteration: float(row[column]) for iteration, row in sorted(self.rows.items()) if column in row}


def find_runs(folder: Path) -> list[Path]:
    """Directories of runs in `folder`, however deep: single runs, multiruns, the study. Raises ValueError for none."""
    found = sorted(path.parent for path in folder.rglob(TABLE))
    if not found:
        raise ValueError(f"{folder}: no {TABLE} in it; expected runs of src/train.py")
    return found


def read_runs(directories: Iterable[Path]) -> dict[str, list[Run]]:
    """The finished runs of `directories` by method, in the order of their seeds; says which are not finished.

    Raises ValueError naming the file that is not of a finished run of this version, and the runs of one method that
    have the same seed.
    """
    runs: dict[str, dict[int, Run]] = defaultdict(dict)
    for directory in directories:
        path = directory / "summary.json"
        summary = read_json_file(path) if path.is_file() else {}
        if "test/success" not in summary:
            print(f"skipped {directory}: no finished run")
            continue
        if missing := [key for key in NEEDED if key not in summary]:
            raise ValueError(f"{path}: {missing[0]} is missing; expected the summary of a run that was validated")
        run, seed = Run(directory, summary, read_rows(directory / TABLE)), summary["seed"]
        if other := runs[run.method].get(seed):
            raise ValueError(
                f"{directory}: {run.method} with seed {seed}, as {other.directory}; expected one of each seed"
            )
        runs[run.method][seed] = run
    return {method: [members[seed] for seed in sorted(members)] for method, members in sorted(runs.items())}


def by_seed(runs: Iterable[Run], figure: str) -> dict[int, float]:
    """A figure of summary.json by seed."""
    return {run.summary["seed"]: run.summary[figure] for run in runs}


def smooth(curve: Mapping[int, float]) -> dict[int, float]:
    """Mean over the last `SMOOTHED` iterations."""
    return {i: mean(curve[k] for k in curve if i - SMOOTHED < k <= i) for i in curve}


def band(curves: Sequence[Mapping[int, float]]) -> tuple[list[int], list[float], list[float], list[float]]:
    """The iterations that all curves have, and there their mean, the lowest and the highest."""
    iterations = sorted(set.intersection(*map(set, curves)))
    values = [[curve[i] for curve in curves] for i in iterations]
    return iterations, [mean(v) for v in values], [min(v) for v in values], [max(v) for v in values]
