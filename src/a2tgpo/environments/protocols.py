"""How an environment and a policy speak with each other: tools, actions, dialects, judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from a2tgpo.rollouts.protocols import Chat
from a2tgpo.rollouts.trajectory import Task

Argument = str | int | float | bool
"""What a tool can be called with."""


class ToolError(ValueError):
    """A tool's own words for why it failed, as the policy shall read them."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool, as the policy is told of it."""

    type: type[Argument]
    """str, int, float or bool."""
    description: str = ""
    required: bool = True


@dataclass(frozen=True)
class Tool:
    """A tool as the policy is told of it."""

    name: str
    description: str
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True)
class ToolCall:
    """A tool's name and its arguments, each of its parameter's type."""

    name: str
    arguments: Mapping[str, Argument]


@dataclass(frozen=True)
class Action:
    """One well-formed action: tool calls, or an answer."""

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None

    @property
    def name(self) -> str:
        """Equal for equal tool calls and for equal answers, whatever was thought beside them."""
        calls = [[call.name, dict(call.arguments)] for call in self.calls]
        return json.dumps([self.answer and self.answer.strip(), calls], sort_keys=True)


class Dialect(Protocol):
    """How an environment and a policy speak with each other."""

    answer_wrapper: tuple[str, str]
    """The text around an answer that makes it a well-formed action; beliefs are scored inside it."""
    layout: Callable[[Sequence[str]], str]
    """How found passages are written into a result."""

    def stop_strings(self, tools: Sequence[Tool]) -> Sequence[str]:
        """Texts that end an action; without any, the model's end token does. Raises SettingError where calls of these
        tools cannot be written in this dialect."""
        ...

    def prompt(self, question: str, tools: Sequence[Tool]) -> str | Chat:
        """What opens the episode."""
        ...

    def parse(self, text: str, tools: Sequence[Tool]) -> Action | None:
        """The action that `text` stands for, None where it is malformed."""
        ...

    def write(self, action: Action, thought: str = "") -> Sequence[str]:
        """The text that `parse` reads as `action`, behind a `thought` where the dialect has any; a text for each call
        where an action holds only one."""
        ...

    def observe(self, results: Sequence[str], tools: Sequence[Tool]) -> str | Chat:
        """The results of an action's tool calls, as the policy will see them."""
        ...


class Judge(Protocol):
    """Says how good an answer is."""

    def __call__(self, answer: str | None, task: Task) -> Mapping[str, float]:
        """Metrics of `answer`, None where the episode gave none; at least `success` in [0, 1]."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A tool that can say how well an episode used it."""

    def measure(self, calls: Sequence[Mapping[str, Argument]]) -> Mapping[str, float]:
        """Metrics of an episode that called the tool with these arguments, one after another."""
        ...
