"""Compare finished runs: a Markdown table (mean over seeds, lowest and highest) and a picture of validation success.

python scripts/compare_runs.py logs/train/runs/* --picture docs/learning_curve.png
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib

from a2tgpo.callbacks.metrics_table import read_rows
from a2tgpo.system.files import read_json_file
from a2tgpo.system.jsonl import lines, read_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {"train/success": "training questions, sampled", "val/success": "unseen worlds, greedy"}
SMOOTHED = 5
"""Iterations over which success in training is averaged; each has other questions."""
NO_SPREAD = "credit/no_spread_turn_groups"
COLUMNS = {name: f"val/success/{name}" for name in ("start", "best", "final")} | {"test": "test/success"}
NEEDED = ("experiment", "overrides", "seed", "update/clip_fraction", "seconds/total", *COLUMNS.values())


def load(directories: list[Path]) -> dict[str, list[dict]]:
    """Runs by experiment and overrides: the summary, and success by iteration in training and in validation.

    Raises ValueError naming the file that is not of a finished run of this version, and where runs of one method have
    the same seed.
    """
    runs: dict[str, list[dict]] = defaultdict(list)
    for directory in directories:
        path = directory / "summary.json"
        summary = read_json_file(path) if path.is_file() else {}
        if "test/success" not in summary:
            print(f"skipped {directory}: no finished run")
            continue
        if missing := [key for key in NEEDED if key not in summary]:
            raise ValueError(f"{path}: {missing[0]} is missing; expected the summary of a run that was validated")
        rows = read_rows(directory / "metrics.csv").values()
        curves = {name: {int(row["iteration"]): float(row[name]) for row in rows if name in row} for name in PANELS}
        flat = [float(row[NO_SPREAD]) for row in rows if NO_SPREAD in row]
        run = {
            "summary": summary,
            "no_spread": mean(flat) if flat else None,
            "last_turn": last_turn_share(directory / "rollouts"),
            **curves,
        }
        runs[" ".join(filter(None, (summary["experiment"], summary["overrides"])))].append(run)
    for method, members in runs.items():
        seeds = [member["summary"]["seed"] for member in members]
        if twice := [seed for seed in sorted(set(seeds)) if seeds.count(seed) > 1]:
            raise ValueError(f"{method}: {seeds.count(twice[0])} runs with seed {twice[0]}; expected one of each seed")
    return dict(sorted(runs.items()))


def last_turn_share(rollouts: Path) -> float | None:
    """Share of all gain, in absolute value, that falls on the last process turn of its trajectory.

    Raises ValueError naming a file that holds anything else than trajectories.
    """
    total = last = 0.0
    for path in rollouts.glob("*.jsonl"):
        try:
            for _, _, line in lines(path):
                trajectory = read_json(line)
                gains = [abs(g) for g, has in zip(trajectory["gain"], trajectory["has_gain"], strict=True) if has]
                total += sum(gains)
                last += sum(gains[-1:])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}; expected a trajectory a line") from error
    return last / total if total else None


def table(runs: dict[str, list[dict]]) -> str:
    """One row an experiment with its overrides; each cell is the mean over seeds with [lowest, highest].

    `mean` is the mean of all validations of a run but the start: how fast it learnt.
    """
    lines = ["| success | seeds | " + " | ".join(COLUMNS) + " | mean | clip fraction | minutes |"]
    lines.append("|---" * (len(COLUMNS) + 5) + "|")
    for experiment, members in runs.items():
        summaries = [member["summary"] for member in members]
        cells = [_spread([summary[key] for summary in summaries]) for key in COLUMNS.values()]
        learnt = [[rate for iteration, rate in member["val/success"].items() if iteration] for member in members]
        cells.append(_spread([mean(rates) for rates in learnt]))
        cells.append(_spread([summary["update/clip_fraction"] for summary in summaries]))
        cells.append(_spread([summary["seconds/total"] / 60 for summary in summaries], digits=1))
        seeds = ", ".join(str(seed) for seed in sorted(summary["seed"] for summary in summaries))
        lines.append(f"| {experiment} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 3) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Success over iterations: the mean over seeds as a line, lowest to highest as a band."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(10, 4), sharey=True, layout="constrained")
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for experiment, members in runs.items():
            curves = [_smooth(member[name]) if name == "train/success" else member[name] for member in members]
            iterations = sorted(set.intersection(*map(set, curves)))
            values = [[curve[i] for curve in curves] for i in iterations]
            (line,) = axes.plot(iterations, [mean(v) for v in values], label=f"{experiment} ({len(members)} seeds)")
            axes.fill_between(
                iterations, [min(v) for v in values], [max(v) for v in values], alpha=0.15, color=line.get_color()
            )
        axes.set(xlabel="iteration (rollout sets)", title=title, ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("success")
    panels[-1].legend()
    figure.savefig(path, dpi=130)


def _smooth(curve: dict[int, float]) -> dict[int, float]:
    """Mean over the last `SMOOTHED` iterations."""
    return {i: mean(curve[k] for k in curve if i - SMOOTHED < k <= i) for i in curve}


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    try:
        runs = load(arguments.runs)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table(runs))
    for experiment, members in runs.items():
        if all(member["last_turn"] is not None for member in members):
            last, flat = (_spread([member[key] for member in members]) for key in ("last_turn", "no_spread"))
            print(f"{experiment}: {last} of the gain in the last tool call; {flat} of the turn groups without spread")
    if arguments.picture:
        draw(runs, arguments.picture)


if __name__ == "__main__":
    main()
