"""What came out: on the screen, as JSON and Markdown."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from a2tgpo.method.method import Method
from a2tgpo.oracle.controls import CONTROLS, RLOO
from a2tgpo.oracle.forked import JUDGING, Forked
from a2tgpo.oracle.judge import Fidelity, Figure, Judge

LESS = f"whitened cosine less that of {RLOO}"


@runtime_checkable
class Report(Protocol):
    """What is told of a set: how much there is, and the figures of each credit."""

    facts: Mapping[str, float]
    fidelities: Mapping[str, Any]
    """By credit."""

    def figures(self, credit: str) -> Mapping[str, Figure]:
        """All figures of a credit."""
        ...


@dataclass(frozen=True)
class SetReport:
    """One set of forks: what it is, and the figures of each credit."""

    facts: Mapping[str, float]
    fidelities: Mapping[str, Fidelity]

    def figures(self, credit: str) -> dict[str, Figure]:
        """All figures of a credit, first the difference from RLOO."""
        own = self.fidelities[credit]
        return {LESS: own.less(self.fidelities[RLOO])} | own.figures


def rows(report: Report) -> list[list[str]]:
    """A row a figure, a column a credit; above them the credits' names."""
    columns = [report.figures(credit) for credit in report.fidelities]
    cells = [[name, *(_cell(column[name], name == LESS) for column in columns)] for name in columns[0]]
    return [["", *report.fidelities], *cells]


def told(report: Report) -> str:
    """The facts in one line."""
    known = {name: f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for name, value in report.facts.items()}
    return ", ".join(f"{name} {value}" for name, value in known.items())


def judge_all(forked: Forked, methods: Mapping[str, Method], batch_prompts: int) -> SetReport:
    """The figures of `methods` and of the controls."""
    judge = Judge(forked, batch_prompts)
    fidelities = {name: judge.fidelity(judge.credit(method)) for name, method in (methods | CONTROLS).items()}
    return SetReport(facts(forked), fidelities)


def facts(forked: Forked) -> dict[str, float]:
    """How much there is, and how exact."""
    mask, everything = forked.batch.turn_mask, slice(None)

    def over_turns(values: Float[Tensor, "B T"]) -> float:
        return float(values[mask].mean())

    return {
        "prompts": len(forked.batch.group_ids.unique()),
        "trajectories": len(forked.trajectories),
        "turns": int(mask.sum()),
        "states": len(forked.fork_outcome),
        "forks of a state": forked.fork_outcome.shape[1],
        "mean outcome": float(forked.batch.outcome.mean()),
        "error of V": over_turns(forked.value_error(everything)[:, :-1]),
        "mean |A*|": over_turns(forked.advantage(everything).abs()),
        "error of A* in the judging half": over_turns(forked.advantage_error(JUDGING)),
        "gradients kept": forked.gradient_kept,
    }


def as_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Plain data; what is not known is null."""
    return {
        name: {
            "facts": _known(report.facts),
            "credits": {
                credit: {figure: _known(asdict(value)) for figure, value in report.figures(credit).items()}
                for credit in report.fidelities
            },
        }
        for name, report in reports.items()
    }


def _known(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def markdown(reports: Mapping[str, Report]) -> str:
    """One table a set."""
    parts = []
    for name, report in reports.items():
        head, *body = (f"| {' | '.join(row)} |" for row in rows(report))
        line = "|---" * (len(report.fidelities) + 1) + "|"
        parts.append("\n".join([f"**{name}**: {told(report)}", "", head, line, *body]))
    return "\n\n".join(parts) + "\n"


def print_reports(reports: Mapping[str, Report], console: Console) -> None:
    """The same for a person; nothing is cut off."""
    for name, report in reports.items():
        head, *body = rows(report)
        table = Table(box=SIMPLE_HEAD, padding=(0, 1))
        for i, credit in enumerate(head):
            table.add_column(credit, justify="right" if i else "left", no_wrap=True)
        for row in body:
            table.add_row(*row)
        console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
        console.print(f"[bold]{escape(name)}[/]: {told(report)}", highlight=False, soft_wrap=True)
        console.print(table)


def _cell(figure: Figure, signed: bool) -> str:
    if not math.isfinite(figure.value):
        return "–"
    value = f"{figure.value:{'+' if signed else ''}.3f}"
    return value if not math.isfinite(figure.error) else f"{value} ± {figure.error:.3f}"
