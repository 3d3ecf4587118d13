"""Compare finished runs: a Markdown table (mean over seeds, lowest and highest) and a picture of validation success.

python scripts/compare_runs.py logs/train/runs/* --picture docs/learning_curve.png
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import matplotlib

from a2tgpo.evaluation.runs import FIGURES, Run, band, by_seed, read_runs, smooth
from a2tgpo.system.jsonl import lines, read_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {"train/success": "training questions, sampled", "val/success": "unseen worlds, greedy"}
NO_SPREAD = "credit/no_spread_turn_groups"


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


def table(runs: Mapping[str, Sequence[Run]]) -> str:
    """One row an experiment with its overrides; each cell is the mean over seeds with [lowest, highest].

    `mean` is the mean of all validations of a run but the start: how fast it learnt.
    """
    rows = ["| success | seeds | " + " | ".join(FIGURES) + " | mean | clip fraction | minutes |"]
    rows.append("|---" * (len(FIGURES) + 5) + "|")
    for method, members in runs.items():
        cells = [_spread(list(by_seed(members, key).values())) for key in FIGURES.values()]
        learnt = [[rate for i, rate in run.curve("val/success").items() if i] for run in members]
        cells.append(_spread([mean(rates) for rates in learnt]))
        cells.append(_spread([run.summary["update/clip_fraction"] for run in members]))
        cells.append(_spread([run.summary["seconds/total"] / 60 for run in members], digits=1))
        seeds = ", ".join(str(run.summary["seed"]) for run in members)
        rows.append(f"| {method} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _spread(values: list[float], digits: int = 3) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def draw(runs: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Success over iterations: the mean over seeds as a line, lowest to highest as a band."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(10, 4), sharey=True, layout="constrained")
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for method, members in runs.items():
            curves = [run.curve(name) for run in members]
            iterations, middle, low, high = band([smooth(c) for c in curves] if name == "train/success" else curves)
            (line,) = axes.plot(iterations, middle, label=f"{method} ({len(members)} seeds)")
            axes.fill_between(iterations, low, high, alpha=0.15, color=line.get_color())
        axes.set(xlabel="iteration (rollout sets)", title=title, ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("success")
    panels[-1].legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    try:
        runs = read_runs(arguments.runs)
        where = {method: [last_turn_share(run.directory / "rollouts") for run in runs[method]] for method in runs}
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table(runs))
    for method, members in runs.items():
        flat = [list(run.curve(NO_SPREAD).values()) for run in members]
        if None not in where[method] and all(flat):
            last, no_spread = _spread(where[method]), _spread([mean(shares) for shares in flat])
            print(f"{method}: {last} of the gain in the last tool call; {no_spread} of the turn groups without spread")
    if arguments.picture:
        draw(runs, arguments.picture)


if __name__ == "__main__":
    main()
