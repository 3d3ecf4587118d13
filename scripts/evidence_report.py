"""Tables and figures of the study, from docs/evidence/results.json alone.

    python scripts/evidence_report.py

Writes docs/evidence/tables.md and one learning-curve figure a setting beside it.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from evidence import PLAN, RESULTS, Plan, Run, Study, read_results
from evidence_fidelity import FIDELITY, SETTING
from scipy.stats import kendalltau

from a2tgpo.evaluation.contrasts import FEWEST, Contrast, contrast, holm
from a2tgpo.oracle.report import LESS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CHOOSING = ("rates", "critic")
"""Studies that choose a method's settings, on seeds of their own."""


def runs_of(study: Study, results: Mapping[str, Any], setting: str, method: str) -> dict[int, Any]:
    """The runs of the study that are there, by seed."""
    keys = {seed: Run(seed, setting, method).key for seed in study.seeds}
    return {seed: results[key] for seed, key in keys.items() if key in results}


def by_seed(study: Study, results: Mapping[str, Any], setting: str, method: str, name: str) -> dict[int, float]:
    """A figure of each run, by seed; those that do not have it are missing."""
    found = {seed: figure_of(run, name) for seed, run in runs_of(study, results, setting, method).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def figure_of(run: Mapping[str, Any], name: str) -> float | None:
    """A key of the summary, the mean of a curve, or `curve@other=level`: the curve where the other first comes to that
    level, between two points on the line that joins them; None where it never does."""
    curve, at, level = name.partition("@")
    curves = run["curves"]
    if not at:
        return mean(v for _, v in curves[name]) if curves.get(name) else run["summary"][name]
    other, _, number = level.partition("=")
    sought, points = float(number), list(zip(curves[other], curves[curve], strict=True))
    for ((_, x0), (_, y0)), ((_, x1), (_, y1)) in pairwise(points):
        if x0 <= sought < x1:
            return y0 + (y1 - y0) * (sought - x0) / (x1 - x0)
    return None


def table(study: Study, results: Mapping[str, Any]) -> str:
    """A row a setting and method with at least two runs: mean and standard deviation of the study's figures, over those
    that have them."""
    figures = study.figures
    lines = [f"| setting | method | seeds | {' | '.join(figures)} |", "|---" * (3 + len(figures)) + "|"]
    for setting in study.settings:
        for method in study.methods:
            n_seeds = len(runs_of(study, results, setting, method))
            if n_seeds > 1:
                values = [list(by_seed(study, results, setting, method, name).values()) for name in figures]
                cells = [_spread(v) + (f" ({len(v)})" if len(v) < n_seeds else "") for v in values]
                lines.append(" | ".join([f"| {setting}", method, str(n_seeds), *cells]) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else "–"


def contrasts(study: Study, results: Mapping[str, Any]) -> list[tuple[str, str, Contrast, float]]:
    """(setting, figure, contrast, Holm's p) of all contrasts of a study, adjusted together."""
    made: list[tuple[str, str, Contrast]] = []
    for setting in study.settings:
        for name in study.figures:
            for pair in study.contrasts:
                first, second = ((method, by_seed(study, results, setting, method, name)) for method in pair)
                if len(first[1].keys() & second[1].keys()) >= FEWEST:
                    made.append((setting, name, contrast(first, second)))
    return [(*row, p) for row, p in zip(made, holm([c.p for _, _, c in made]), strict=True)]


def contrast_table(rows: Sequence[tuple[str, str, Contrast, float]]) -> str:
    """In Markdown, a row a contrast."""
    lines = ["| setting | figure | contrast | seeds | difference, 95 % interval | p | p, Holm |", "|---" * 7 + "|"]
    for setting, name, c, adjusted in rows:
        interval = f"{c.difference:+.3f} ({c.low:+.3f} to {c.high:+.3f})"
        cells = [setting, name, f"{c.first} − {c.second}", str(len(c.seeds)), interval, f"{c.p:.4f}", f"{adjusted:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(study: Study, results: Mapping[str, Any], setting: str, path: Path) -> None:
    """Success in validation over iterations: mean over seeds, and two standard errors as a band."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in study.methods:
        curves = [dict(run["curves"]["val/success"]) for run in runs_of(study, results, setting, method).values()]
        if len(curves) < 2:
            continue
        iterations = sorted(set.intersection(*map(set, curves)))
        values = [[curve[i] for curve in curves] for i in iterations]
        middle, band = [mean(v) for v in values], [2 * stdev(v) / len(v) ** 0.5 for v in values]
        (line,) = axes.plot(iterations, middle, label=f"{method} ({len(curves)} seeds)")
        edges = ([m - sign * b for m, b in zip(middle, band, strict=True)] for sign in (1, -1))
        axes.fill_between(iterations, *edges, alpha=0.15, color=line.get_color())
    axes.set(xlabel="iteration (rollout sets)", ylabel="success, unseen worlds, greedy", title=setting, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def gained(plan: Plan, results: Mapping[str, Any], method: str) -> list[float]:
    """Mean success in training of each run of the method on the task that was forked, but those that chose its rate."""
    chosen = {seed for name, study in plan.studies.items() if name not in CHOOSING for seed in study.seeds}
    runs = (results.get(Run(seed, SETTING, method).key) for seed in sorted(chosen))
    return [mean(v for _, v in run["curves"]["train/success"]) for run in runs if run]


def fidelity_section(plan: Plan, results: Mapping[str, Any], fidelity: Mapping[str, Any], path: Path) -> list[str]:
    """What the forks say of each credit beside what training with it gained, a picture, and how far the ranks agree."""
    near = {name: {method: f[LESS] for method, f in found["methods"].items()} for name, found in fidelity.items()}
    by_method = {method: gained(plan, results, method) for method in next(iter(near.values()))}
    trained = {method: values for method, values in by_method.items() if len(values) > 1}
    if len(trained) < FEWEST:
        return []
    lines = [f"| method | {' | '.join(near)} | seeds | train/success |", "|---" * (len(near) + 3) + "|"]
    for method, values in trained.items():
        cells = [_cell(f[method]) for f in near.values()]
        lines.append(f"| {method} | {' | '.join(cells)} | {len(values)} | {_spread(values)} |")
    means = [mean(values) for values in trained.values()]
    agreement = [f"{name} {kendalltau([f[m][0] for m in trained], means)[0]:+.2f}" for name, f in near.items()]
    draw_fidelity(trained, near, path)
    about = f"On `{SETTING}`: whitened cosine with the forks less that of RLOO, and what training gained. "
    return ["## fidelity", about + f"Kendall's τ of the two: {', '.join(agreement)}.", "\n".join(lines)]


def _cell(figure: Sequence[float] | None) -> str:
    return "–" if figure is None else "{:+.3f} ± {:.3f}".format(*figure)


def drift_section(plan: Plan, results: Mapping[str, Any]) -> list[str]:
    """How large advantages are at each turn index: their standard deviation over a rollout set, a mean over a run."""
    names = [f"credit/advantage/turn_{t}/std" for t in range(1, 6)]
    rows = []
    for method in plan.methods:
        prefix = f"{SETTING}/{method}/"
        runs = [run for key, run in results.items() if key.startswith(prefix) and run["curves"].get(names[0])]
        if runs:
            columns = [[run["curves"][name] for run in runs if run["curves"].get(name)] for name in names]
            cells = [_spread([mean(v for _, v in curve) for curve in column]) for column in columns]
            rows.append(" | ".join([f"| {method}", str(len(runs)), *cells]) + " |")
    if not rows:
        return []
    head = f"| method | seeds | {' | '.join(f'turn {t}' for t in range(1, 6))} |\n" + "|---" * 7 + "|"
    return ["## drift", f"Standard deviation of Â by turn index, on `{SETTING}`.", "\n".join([head, *rows])]


def figures_section(fidelity: Mapping[str, Any]) -> list[str]:
    """The other figures of each credit, a table a set; and what gains are turn by turn."""
    sections = []
    for name, found in fidelity.items():
        figures = list(next(iter(found["methods"].values())))[1:]
        head = [f"| {name} | {' | '.join(figures)} |", "|---" * (1 + len(figures)) + "|"]
        rows = [f"| {m} | {' | '.join(_cell(own[f]) for f in figures)} |" for m, own in found["methods"].items()]
        columns = list(found["depths"][0])
        depths = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        depths += [f"| {' | '.join(f'{row[column]:g}' for column in columns)} |" for row in found["depths"]]
        sections += ["\n".join(head + rows), f"`a2tgpo` turn by turn, {name}:", "\n".join(depths)]
    return sections


def draw_fidelity(trained: Mapping[str, Sequence[float]], fidelity: Mapping[str, Any], path: Path) -> None:
    """A panel a set of forks: what training gained over how near the credit comes, with one standard deviation and
    one standard error."""
    means, spread = ([figure(values) for values in trained.values()] for figure in (mean, stdev))
    size = (4 * len(fidelity), 4)
    figure, panels = plt.subplots(1, len(fidelity), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (name, f) in zip(panels[0], fidelity.items(), strict=True):
        near, error = zip(*(f[method] for method in trained), strict=True)
        axes.errorbar(near, means, spread, error, "o", alpha=0.7)
        for method, x, y in zip(trained, near, means, strict=True):
            axes.annotate(method, (x, y), fontsize=7)
        axes.set(xlabel="whitened cosine less that of RLOO", title=name)
    panels[0][0].set(ylabel="mean success in training")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    plan, results = Plan.read(arguments.plan), read_results(arguments.results)
    sections: list[str] = ["<!-- made by scripts/evidence_report.py -->"]
    for name, study in plan.studies.items():
        if not any(len(runs_of(study, results, s, m)) > 1 for s in study.settings for m in study.methods):
            continue
        sections += [f"## {name}", study.about, table(study, results)]
        if rows := contrasts(study, results):
            sections.append(contrast_table(rows))
        for setting in study.settings:
            if any(len(runs_of(study, results, setting, method)) > 1 for method in study.methods):
                draw(study, results, setting, arguments.results.with_name(f"{name}-{setting}.png"))
    sections += drift_section(plan, results)
    near = arguments.results.with_name(FIDELITY.name)
    if near.is_file():
        fidelity = read_results(near)
        sections += fidelity_section(plan, results, fidelity, near.with_suffix(".png")) + figures_section(fidelity)
    arguments.results.with_name("tables.md").write_text("\n\n".join(sections) + "\n")
    print("\n\n".join(sections))


if __name__ == "__main__":
    main()
