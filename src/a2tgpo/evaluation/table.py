"""The table of an evaluation over several question sets: on the screen, and as json, csv and markdown."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from a2tgpo.evaluation.bootstrap import COVERAGE, OVERALL, RESAMPLES, Estimate, SetScores, averages
from a2tgpo.system.files import whole_file, write_json

LABELS = {
    "hotpotqa": "HotpotQA",
    "two_wiki": "2Wiki",
    "musique": "MuSiQue",
    "bamboogle": "Bamboogle",
    "nq": "NQ",
    "triviaqa": "TriviaQA",
    "popqa": "PopQA",
}
ROWS = {
    "success": ("success %", 100.0, 1),
    "em": ("EM %", 100.0, 1),
    "f1": ("F1 %", 100.0, 1),
    "format": ("format %", 100.0, 0),
    "calls": ("calls", 1.0, 2),
    "tool_failures": ("failed calls", 1.0, 2),
    "action_tokens": ("own tokens", 1.0, 0),
    "tokens": ("all tokens", 1.0, 0),
}
"""Label, factor and decimals of each metric; `own tokens` are those the policy sampled."""


@dataclass(frozen=True)
class Column:
    """A set, or an average (`weighted` by questions or `macro` over sets) of a group."""

    group: str
    name: str
    sets: int
    questions: int
    estimates: Mapping[str, Estimate]

    @property
    def key(self) -> str:
        """`nq`, `single_hop/weighted`, `overall/macro`."""
        return f"{self.group}/{self.name}" if self.name in ("weighted", "macro") else self.name

    @property
    def heading(self) -> str:
        """What stands over the column: its name, and how much it was measured on."""
        size = f"{self.sets} sets" if self.name == "macro" else f"n={self.questions}"
        return f"{LABELS.get(self.name, self.name)}\n{size}"


def columns(scores: Mapping[str, SetScores], groups: Mapping[str, Sequence[str]]) -> list[Column]:
    """Group by group the sets that were scored and their averages, then the averages over all."""
    result = []
    for group, average in averages(scores, groups).items():
        names = [name for name in groups.get(group, scores) if name in scores]
        counts = [len(scores[name].values) for name in names]
        if group != OVERALL:
            pairs = zip(names, counts, strict=True)
            result += [Column(group, name, 1, count, scores[name].estimates()) for name, count in pairs]
        result += [Column(group, kind, len(names), sum(counts), average[kind]) for kind in average]
    return result


def print_table(table_columns: Sequence[Column], console: Console) -> None:
    """One table where the screen is wide enough or there is none, else one a group; nothing is cut off."""
    tables = [_rich_table(table_columns)]
    if console.is_terminal and _width(tables[0], console) > console.width:
        groups = dict.fromkeys(column.group for column in table_columns)
        tables = [_rich_table([column for column in table_columns if column.group == group]) for group in groups]
    for table in tables:
        console.width = max(console.width, _width(table, console))
        console.print(table)


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=1000)).maximum


def _rich_table(table_columns: Sequence[Column]) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        caption=f"second lines: {COVERAGE:.0%} bootstrap intervals",
    )
    table.add_column("\n\n", no_wrap=True)
    group = ""
    for column in table_columns:
        title, group = ("" if column.group == group else _label(column.group)), column.group
        style = "bold" if column.key != column.name else None
        table.add_column(f"[bold]{title}[/]\n{column.heading}", justify="right", style=style, no_wrap=True)
    for metric in table_columns[0].estimates:
        cells = [_cell(metric, column.estimates[metric]) for column in table_columns]
        table.add_row(ROWS[metric][0], *(f"{value}\n[not bold dim]{interval}[/]" for value, interval in cells))
    return table


def _label(group: str) -> str:
    return group.replace("_", "-")


def _cell(metric: str, estimate: Estimate) -> tuple[str, str]:
    _, factor, decimals = ROWS[metric]
    value, low, high = (f"{factor * x:.{decimals}f}" for x in (estimate.value, estimate.low, estimate.high))
    return value, f"{low}–{high}"


def write_table(directory: Path, table_columns: Sequence[Column], settings: Mapping[str, object]) -> None:
    """Write `benchmarks.json`, `.csv` (a line for each column and metric) and `.md` to `directory`."""
    interval = f"{COVERAGE:.0%} bootstrap, {RESAMPLES} resamples of the questions of each set (Clopper-Pearson where a "
    interval += "share is 0 or 1 in all of them)"
    plain = {
        column.key: {
            "group": column.group,
            "sets": column.sets,
            "questions": column.questions,
            "metrics": {metric: asdict(estimate) for metric, estimate in column.estimates.items()},
        }
        for column in table_columns
    }
    content = {**settings, "interval": interval, "columns": plain}
    write_json(directory / "benchmarks.json", content)
    with whole_file(directory / "benchmarks.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["column", "group", "questions", "metric", "value", "low", "high"])
        for column in table_columns:
            for metric, e in column.estimates.items():
                writer.writerow([column.key, column.group, column.questions, metric, e.value, e.low, e.high])
    with whole_file(directory / "benchmarks.md") as file:
        file.write(_markdown(table_columns) + f"\nIn brackets: {interval}.\n")


def _markdown(table_columns: Sequence[Column]) -> str:
    headings = [f"{_label(column.group)}\n{column.heading}".replace("\n", "<br>") for column in table_columns]
    lines = ["| | " + " | ".join(headings) + " |", "|---|" + "---:|" * len(table_columns)]
    for metric in table_columns[0].estimates:
        cells = [_cell(metric, column.estimates[metric]) for column in table_columns]
        lines.append(f"| {ROWS[metric][0]} | " + " | ".join(f"{v} [{interval}]" for v, interval in cells) + " |")
    return "\n".join(lines) + "\n"
