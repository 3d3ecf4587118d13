"""What was found, how good that is, and which override mends it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text


class Verdict(StrEnum):
    """How good a finding is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    """The run would work, and could work better; or too little is known."""
    BAD = "bad"
    """The run would learn nothing, or something wrong."""


def graded(share: float, few: float, many: float) -> Verdict:
    """The verdict on a share of what should be: bad below `few`, good from `many` on."""
    return Verdict.GOOD if share >= many else Verdict.DOUBTFUL if share >= few else Verdict.BAD


STYLE = {Verdict.GOOD: "green", Verdict.DOUBTFUL: "yellow", Verdict.BAD: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    verdict: Verdict
    says: str
    mend: str = ""
    """Overrides, or a command, that would make it better."""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All findings, and what the model saw and said."""

    prompt: str
    episodes: Sequence[str]
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """That of the worst finding."""
        return max((finding.verdict for finding in self.findings), key=[*Verdict].index)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"verdict": self.verdict, **asdict(self)}

    def print(self, console: Console) -> None:
        """The report as text."""
        for title, text in [
            ("The prompt", self.prompt),
            *(("A sampled episode", episode) for episode in self.episodes),
        ]:
            console.print(f"[bold]{title}[/]")
            console.print(Text(text), soft_wrap=True)
            console.print()
        for finding in self.findings:
            line = (
                f"[{STYLE[finding.verdict]}]{finding.verdict:>8}[/]  [bold]{finding.topic}[/]: {escape(finding.says)}"
            )
            console.print(line, highlight=False, soft_wrap=True)
            if finding.mend:
                console.print(f"          → {escape(finding.mend)}", highlight=False, soft_wrap=True)
