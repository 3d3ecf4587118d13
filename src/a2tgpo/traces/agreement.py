"""How credits of the same trajectories agree with each other, where no forks say which is right."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from a2tgpo.method.method import Method
from a2tgpo.method.protocols import ForkedCredit
from a2tgpo.oracle import metrics
from a2tgpo.oracle.controls import CONTROLS, RLOO
from a2tgpo.oracle.judge import Figure, averaged, correlated
from a2tgpo.traces.crediting import Crediting, has_credit
from a2tgpo.traces.trace import Trace

RECORDED = "recorded"
"""The credit that the trainer gave."""


@dataclass(frozen=True)
class Turns:
    """The turns of `traces` that are trained on. Axis: N of them, B trajectories."""

    traces: Sequence[Trace]

    @cached_property
    def places(self) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Trajectory and prompt of every turn."""
        rows = [row for row, trace in enumerate(self.traces) for _ in trace.turns[trace.facts.get("n_shared", 0) :]]
        row = torch.tensor(rows)
        return row, self.prompt[row]

    @cached_property
    def prompt(self) -> Int[Tensor, " B"]:
        """Number of each trajectory's prompt."""
        known: dict[tuple[int, ...], int] = {}
        keys = [tuple(trace.facts[name] for name in ("iteration", "rank", "group")) for trace in self.traces]
        return torch.tensor([known.setdefault(key, len(known)) for key in keys])

    @cached_property
    def earned(self) -> Float[Tensor, " B"]:
        """R less the mean of the prompt's others; 0 where there are none."""
        outcome = torch.tensor([float(trace.facts["outcome"]) for trace in self.traces])
        n = self.prompt.bincount()[self.prompt]
        return torch.where(n > 1, metrics.centred(outcome, self.prompt) * n / (n - 1).clamp(min=1), 0.0)

    def by(self, method: Method) -> Float[Tensor, " N"]:
        """Â of every turn. Raises ValueError where the method asks for beliefs and there are none."""
        crediting = Crediting(method)
        if not crediting.gives_gains(self.traces):
            raise ValueError(
                "traces: they hold no beliefs, which model/signal asks for; expected traces imported with --model, or "
                "model/signal=none"
            )
        parts = [
            batch.credit.advantage[row, turns.n_shared : len(turns.turns)]
            for known, batch in crediting.assign(self.traces)
            for row, turns in enumerate(known)
        ]
        return torch.cat(parts)

    def recorded(self) -> Float[Tensor, " N"]:
        """Â of every turn as it was recorded."""
        own = [turn for trace in self.traces for turn in trace.turns[trace.facts.get("n_shared", 0) :]]
        return torch.tensor([float(turn.facts["advantage"]) for turn in own])

    def against(self, name: str, other: Float[Tensor, " N"], credit: Float[Tensor, " N"]) -> dict[str, Figure]:
        """Correlations of `credit` with the `other`, which is called `name`, and how often their signs agree."""
        row, prompt = self.places
        n_prompts = int(self.prompt.max()) + 1
        nonzero = other != 0
        same = metrics.sign_agreement(credit[nonzero], other[nonzero])
        figures = {f"sign of {name}": averaged(same, prompt[nonzero], n_prompts)}
        for place, labels in (("prompts", prompt), ("trajectories", row)):
            pair = [metrics.centred(values, labels) for values in (credit, other)]
            if pair[1].any():
                figures[f"correlation with {name} within {place}"] = correlated(*pair, prompt, n_prompts)
        return figures

    def figures(self, credit: Float[Tensor, " N"]) -> dict[str, Figure]:
        """What can be said of a credit by itself."""
        row, _ = self.places
        total = metrics.sums(credit, row, len(self.traces))
        inside = metrics.centred(credit, row).square().sum() / credit.square().sum()
        return {
            "share within trajectories": Figure(float(inside), math.nan),
            "conservation": correlated(total, self.earned, self.prompt, int(self.prompt.max()) + 1),
        }


@dataclass(frozen=True)
class AgreementReport:
    """What traces hold, and the figures of each credit of them."""

    facts: Mapping[str, float]
    fidelities: Mapping[str, Mapping[str, Figure]]

    def figures(self, credit: str) -> Mapping[str, Figure]:
        """All figures of a credit."""
        return self.fidelities[credit]


def agreement(traces: Sequence[Trace], methods: Mapping[str, Method]) -> AgreementReport:
    """The figures of `methods`, of the recorded credit and of the controls, each held against RLOO and the recorded."""
    turns = Turns(traces)
    controls = {name: control for name, control in CONTROLS.items() if not isinstance(control.credit, ForkedCredit)}
    recorded = {RECORDED: turns.recorded()} if has_credit(traces) else {}
    credits = {name: turns.by(method) for name, method in methods.items()} | recorded
    credits |= {name: turns.by(control) for name, control in controls.items()}
    yardsticks = {name: credits[name] for name in (*recorded, RLOO)}
    fidelities = {}
    for name, credit in credits.items():
        figures = turns.figures(credit)
        for other, values in yardsticks.items():
            figures |= turns.against(other, values, credit)
        fidelities[name] = figures
    outcomes = [float(trace.facts["outcome"]) for trace in traces]
    told = {
        "prompts": int(turns.prompt.max()) + 1,
        "trajectories": len(traces),
        "turns": len(turns.places[0]),
        "mean outcome": sum(outcomes) / len(outcomes),
    }
    return AgreementReport(told, fidelities)
