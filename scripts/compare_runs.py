"""Compare finished runs: a Markdown table (mean over seeds, lowest and highest) and a picture of validation EM.

python scripts/compare_runs.py logs/train/runs/* --picture docs/learning_curve.png
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = {"start": "val/em/start", "best": "val/em/best", "final": "val/em/final", "test": "test/em"}


def load(directories: list[Path]) -> dict[str, list[dict]]:
    """Runs by experiment: the summary, and the curve of validation EM as [(iteration, EM), …]."""
    runs: dict[str, list[dict]] = defaultdict(list)
    for directory in directories:
        summary = json.loads((directory / "summary.json").read_text())
        with (directory / "metrics.csv").open(newline="") as file:
            curve = [(int(row["iteration"]), float(row["val/em"])) for row in csv.DictReader(file) if row["val/em"]]
        runs[summary["experiment"]].append({"summary": summary, "curve": curve})
    return dict(sorted(runs.items()))


def table(runs: dict[str, list[dict]]) -> str:
    """One row an experiment; each cell is the mean over seeds with [lowest, highest].

    `mean EM` is the mean of all validations of a run but the start: how fast it learnt.
    """
    lines = [
        "| experiment | seeds | "
        + " | ".join(f"{name} EM" for name in COLUMNS)
        + " | mean EM | clip fraction | minutes |"
    ]
    lines.append("|---" * (len(COLUMNS) + 5) + "|")
    for experiment, members in runs.items():
        summaries = [member["summary"] for member in members]
        cells = [_spread([summary[key] for summary in summaries]) for key in COLUMNS.values()]
        cells.append(_spread([mean(em for iteration, em in member["curve"] if iteration) for member in members]))
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
    """Validation EM over iterations: the mean over seeds as a line, lowest to highest as a band."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for experiment, members in runs.items():
        iterations = sorted(set.intersection(*(set(dict(member["curve"])) for member in members)))
        values = [[dict(member["curve"])[i] for member in members] for i in iterations]
        (line,) = axes.plot(iterations, [mean(v) for v in values], label=f"{experiment} ({len(members)} seeds)")
        axes.fill_between(
            iterations, [min(v) for v in values], [max(v) for v in values], alpha=0.2, color=line.get_color()
        )
    axes.set(xlabel="iteration (rollout sets)", ylabel="exact match, unseen worlds, greedy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    runs = load(arguments.runs)
    print(table(runs))
    if arguments.picture:
        draw(runs, arguments.picture)


if __name__ == "__main__":
    main()
