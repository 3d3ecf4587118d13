"""A trajectory between formats: the conversation as other people's tools read it, and our own facts beside it."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class TraceCall:
    """A tool call, and what came back."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    result: str | None = None
    """None where the episode ended before it came."""


@dataclass(frozen=True)
class TraceTurn:
    """What a model said at once, and what it heard."""

    content: str
    """What it said beside thought and calls."""
    thought: str = ""
    calls: tuple[TraceCall, ...] = ()
    heard: str = ""
    """What followed, where it was no result of a call."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of the turn: `facts.TURN`."""

    @property
    def results(self) -> tuple[str, ...]:
        """All that it heard, in order."""
        return (*(c.result for c in self.calls if c.result is not None), *filter(None, [self.heard]))


@dataclass(frozen=True)
class Trace:
    """One trajectory."""

    prompt: tuple[Mapping[str, str], ...]
    """Messages (role, content) in front of the first turn."""
    turns: tuple[TraceTurn, ...]
    facts: Mapping[str, Any]
    """What else is known of it: `facts.TRAJECTORY`."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools, in OpenAI's form."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What the run was: `facts.ORIGIN`; empty for trajectories of others."""

    @property
    def name(self) -> str:
        """Distinct within a run."""
        return "-".join(str(self.facts[key]) for key in ("iteration", "rank", "group", "sample"))


def require_package(module: str, distribution: str) -> ModuleType:
    """The module of an optional package. Raises ValueError that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{distribution}: not installed ({error}); expected it: pip install --editable '.[traces]'"
        ) from error
