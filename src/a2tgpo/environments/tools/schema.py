"""From a function to a tool: what the policy is told comes from its signature and docstring."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import dedent
from typing import Any, get_type_hints

from a2tgpo.environments.protocols import Argument, Parameter, Tool
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.errors import SettingError

TYPES: tuple[type[Argument], ...] = (str, int, float, bool)
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Examples?|Notes?):[ \t]*$", re.MULTILINE)
_ENTRY = re.compile(r"(\w+)(?: \([^)]*\))?: *(.*)")
_GIVEN_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class ToolFunction:
    """A function, and how the policy is told of it."""

    tool: Tool
    function: Callable[..., str | Sequence[str]]
    task_parameters: tuple[str, ...]
    """Parameters annotated `Task`: the environment gives them, the policy does not see them."""

    def arguments(self, written: Mapping[str, Argument], task: Task) -> dict[str, Any]:
        """All arguments of a call: what the policy wrote, and the task where the function asks for it."""
        return {**written, **dict.fromkeys(self.task_parameters, task)}


def read_tool(name: str, function: Callable[..., str | Sequence[str]]) -> ToolFunction:
    """The tool that `function` is, called `name` by the policy.

    `function` is a function, a `functools.partial` of one (what it binds is hidden) or an object with `__call__`. Its
    docstring describes it, the `Args:` section its parameters; those with a default may be left out of a call.
    Raises SettingError where a docstring or a parameter's type is missing, or a type is none of `TYPES` and `Task`.
    """
    key = f"data.environment.tools.{name}"
    if not _NAME.fullmatch(name):
        raise SettingError(f"{key}: expected a name of letters, digits, - and _")
    if not callable(function):
        raise SettingError(f"{key}={function!r}: expected a function, or an object that can be called")
    body = _body(function)
    description, described = _read_docstring(body.__doc__ or "")
    if not description:
        raise SettingError(f"{key}: {body.__qualname__} has no docstring; expected one that tells the policy its use")
    hints, bound = _type_hints(key, body), function.keywords if isinstance(function, partial) else {}
    given = {n: p for n, p in inspect.signature(function).parameters.items() if n not in bound}
    for unknown in described.keys() - inspect.signature(body).parameters.keys():
        raise SettingError(f"{key}: the docstring describes {unknown!r}; expected one of the parameters {list(given)}")
    tasks = tuple(n for n in given if hints.get(n) is Task)
    shown = {n: _parameter(key, p, hints, described) for n, p in given.items() if n not in tasks}
    return ToolFunction(Tool(name, description, shown), function, tasks)


def _body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where signature and docstring are written."""
    if isinstance(function, partial):
        return _body(function.func)
    return function if inspect.isroutine(function) else type(function).__call__


def _type_hints(key: str, body: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(body)
    except NameError as error:
        raise SettingError(f"{key}: its types cannot be read, {error}; expected names that can be imported") from error


def _parameter(
    key: str, parameter: inspect.Parameter, hints: Mapping[str, Any], described: Mapping[str, str]
) -> Parameter:
    name, expected = parameter.name, "expected str, int, float, bool, or Task for what the environment gives"
    if parameter.kind not in _GIVEN_BY_NAME:
        raise SettingError(f"{key}: parameter {parameter} cannot be given by name; expected single named parameters")
    if name not in hints:
        raise SettingError(f"{key}: parameter {name!r} has no type; {expected}")
    if hints[name] not in TYPES:
        raise SettingError(f"{key}: parameter {name!r} has type {hints[name]!r}; {expected}")
    return Parameter(hints[name], described.get(name, ""), required=parameter.default is inspect.Parameter.empty)


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the sections, and the entries of `Args:`; line breaks become blanks."""
    before, *rest = _SECTION.split(inspect.cleandoc(text))
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    entries: dict[str, str] = {}
    for line in dedent(sections.get("Args", "").strip("\n")).splitlines():
        if entry := _ENTRY.match(line):
            entries[entry[1]] = entry[2].strip()
        elif entries:
            last = next(reversed(entries))
            entries[last] = f"{entries[last]} {line.strip()}".strip()
    return " ".join(before.split()), entries
