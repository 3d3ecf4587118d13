"""How an environment and a policy speak with each other: tools, actions, dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from a2tgpo.rollouts.protocols import Chat


@dataclass(frozen=True)
class Tool:
    """A tool as the policy is told of it; all arguments are texts."""

    name: str
    description: str
    parameters: Mapping[str, str]
    """Description of each argument."""


@dataclass(frozen=True)
class ToolCall:
    """A tool's name and its arguments, as the policy wrote them."""

    name: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class Action:
    """One well-formed action: tool calls, or an answer."""

    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None


class Dialect(Protocol):
    """How an environment and a policy speak with each other."""

    answer_wrapper: tuple[str, str]
    """The text around an answer that makes it a well-formed action; beliefs are scored inside it."""
    layout: Callable[[Sequence[str]], str]
    """How found passages are written into a result."""

    def stop_strings(self, tools: Sequence[Tool]) -> Sequence[str]:
        """Texts that end an action; without any, the model's end token does."""
        ...

    def prompt(self, question: str, tools: Sequence[Tool]) -> str | Chat:
        """What opens the episode."""
        ...

    def parse(self, text: str, tools: Sequence[Tool]) -> Action | None:
        """The action that `text` stands for, None where it is malformed."""
        ...

    def observe(self, results: Sequence[str], tools: Sequence[Tool]) -> str | Chat:
        """The results of an action's tool calls, as the policy will see them."""
        ...
