"""Worked episodes, which show a policy how a dialect is spoken; each dialect writes them in its own way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a2tgpo.environments.protocols import Action, Dialect, Tool, ToolCall
from a2tgpo.system.errors import SettingError


@dataclass(frozen=True)
class ExampleTurn:
    """A thought, possibly empty, the calls that follow it, and the result of each: a text, or a list of passages."""

    thought: str
    calls: tuple[ToolCall, ...]
    results: tuple[str | Sequence[str], ...]


@dataclass(frozen=True)
class Example:
    """A question, the turns that lead to its answer, and the answer."""

    key: str
    """Of its settings."""
    question: str
    turns: tuple[ExampleTurn, ...]
    answer: str


def read_examples(settings: Mapping[str, Any]) -> Iterator[Example]:
    """The worked episodes of `data.dialect.examples`, in order."""
    for name, example in settings.items():
        turns = tuple(map(_read_turn, example["turns"]))
        yield Example(f"data.dialect.examples.{name}", example["question"], turns, example["answer"])


def _read_turn(turn: Mapping[str, Any]) -> ExampleTurn:
    calls = tuple(ToolCall(call["tool"], call["arguments"]) for call in turn["calls"])
    return ExampleTurn(turn.get("thought", ""), calls, tuple(turn["results"]))


def require_readable(settings: Mapping[str, Any], dialect: Dialect, tools: Sequence[Tool]) -> None:
    """Raises SettingError where the dialect does not read a worked episode as it is meant: a tool or an argument that
    is not there, a value of another type, a tag inside a text; or where a call has no result."""
    for example in read_examples(settings):
        said = [(turn.thought, Action(turn.calls)) for turn in example.turns] + [("", Action(answer=example.answer))]
        for thought, action in said:
            read = [dialect.parse(text, tools) for text in dialect.write(action, thought)]
            if None in read or action != Action(sum((one.calls for one in read), ()), read[-1].answer):
                known = {tool.name: [*tool.parameters] for tool in tools}
                raise SettingError(
                    f"{example.key}: {dialect.write(action, thought)} is not read as {action}; expected calls of the "
                    f"tools {known} with arguments of their types, and texts without tags of the dialect"
                )
        for number, turn in enumerate(example.turns, 1):
            if len(turn.calls) != len(turn.results):
                raise SettingError(
                    f"{example.key}: turn {number} has {len(turn.results)} results; expected one for each of its "
                    f"{len(turn.calls)} calls"
                )
