"""What came out: on the screen, as JSON and Markdown."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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


@dataclass(frozen=True)
class SetReport:
    """One set of forks: what it is, and the figures of each credit."""

    facts: Mapping[str, float]
    fidelities: Mapping[str, Fidelity]

    def figures(self, credit: str) -> dict[str, Figure]:
        """All figures of a credit, first the difference from RLOO."""
        own = self.fidelities[credit]
        return {LESS: own.less(self.fidelities[RLOO])} | own.figures

    def rows(self) -> list[list[str]]:
        """A row a figure, a column a credit; above them the credits' names."""
        columns = [self.figures(credit) for credit in self.fidelities]
        cells = [[name, *(_cell(column[name], name == LESS) for column in columns)] for name in columns[0]]
        return [["", *self.fidelities], *cells]

    def told(self) -> str:
        """The facts in one line."""
        known = {name: f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for name, value in self.facts.items()}
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


def as_json(reports: Mapping[str, SetReport]) -> dict[str, Any]:
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


def markdown(reports: Mapping[str, SetReport]) -> str:
    """One table a set."""
    parts = []
    for name, report in reports.items():
        head, *body = (f"| {' | '.join(row)} |" for row in report.rows())
        line = "|---" * (len(report.fidelities) + 1) + "|"
        parts.append("\n".join([f"**{name}**: {report.told()}", "", head, line, *body]))
    return "\n\n".join(parts) + "\n"


def print_reports(reports: Mapping[str, SetReport], console: Console) -> None:
    """The same for a person; nothing is cut off."""
    for name, report in reports.items():
        head, *body = report.rows()
        table = Table(box=SIMPLE_HEAD, padding=(0, 1))
        for i, credit in enumerate(head):
            table.add_column(credit, justify="right" if i else "left", no_wrap=True)
        for row in body:
            table.add_row(*row)
        console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
        console.print(f"[bold]{escape(name)}[/]: {report.told()}", highlight=False, soft_wrap=True)
        console.print(table)


def _cell(figure: Figure, signed: bool) -> str:
    if not math.isfinite(figure.value):
        return "–"
    value = f"{figure.value:{'+' if signed else ''}.3f}"
    return value if not math.isfinite(figure.error) else f"{value} ± {figure.error:.3f}"
