"""Answer a question with the help of tools."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from a2tgpo.environments.protocols import Action, Dialect, Judge, Measured, Tool, ToolCall, ToolError
from a2tgpo.environments.tools.calling import call_with_timeout
from a2tgpo.environments.tools.schema import ToolFunction, read_tool
from a2tgpo.retrievers.passages import page, split_title
from a2tgpo.rollouts.protocols import Chat, StepResult
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task
from a2tgpo.system.errors import SettingError
from a2tgpo.system.settings import require_all


@dataclass
class ToolUse:
    """One episode: up to `max_calls` tool calls, then an answer.

    `tools` maps the name that the policy uses to a typed function, which returns a text or a list of passages. A call
    that raises or takes longer than `tool_timeout` seconds becomes an observation that says so, in the words of a
    ToolError or else in one short sentence; after `max_tool_failures` of them the episode ends. Texts and passages that
    calls bring are pieces: a call is useful where it brings a piece of the task's evidence, or a passage of a page of
    it, for the first time. `judge` says how good the answer is, and a tool that is `Measured` how well it was used.

    Raises SettingError where a setting cannot work, or a tool raises one.
    """

    task: Task
    tools: Mapping[str, Callable[..., str | Sequence[str]]]
    judge: Judge
    dialect: Dialect
    max_calls: int
    tool_timeout: float
    max_tool_failures: int
    deterministic: bool
    """A promise that holds where all tools keep it."""
    stop_strings: Sequence[str] = field(init=False)
    _functions: Mapping[str, ToolFunction] = field(init=False, repr=False)
    schemas: tuple[Tool, ...] = field(init=False, repr=False)
    """The tools as the policy is told of them."""
    _calls: tuple[ToolCall, ...] = field(default=(), init=False)
    _useful: int = field(default=0, init=False)
    _new: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _answer: str | None = field(default=None, init=False)
    _seen: frozenset[str] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        require_all(vars(self), "data.environment")
        self._functions = {name: read_tool(name, function) for name, function in self.tools.items()}
        self.schemas = tuple(function.tool for function in self._functions.values())
        self.stop_strings = self.dialect.stop_strings(self.schemas)

    def prompt(self) -> str | Chat:
        """What opens the episode."""
        return self.dialect.prompt(self.task.question, self.schemas)

    def step(self, action_text: str) -> StepResult:
        """Carry out one action: call its tools, take the answer, or end the episode on a malformed action."""
        action = self.dialect.parse(action_text, self.schemas)
        if action is None:
            return StepResult(stop=StopReason.INVALID_ACTION)
        if action.answer is not None:
            self._answer = action.answer
            return StepResult(stop=StopReason.ANSWERED, action=action.name)
        if len(self._calls) + len(action.calls) > self.max_calls:
            return StepResult(stop=StopReason.MAX_TURNS, action=action.name)
        return self._call_all(action)

    def state(self) -> str:
        """A digest of the set of pieces seen so far, the same in every process; their order does not matter."""
        return hashlib.blake2b(json.dumps(sorted(self._seen)).encode(), digest_size=8).hexdigest()

    def finish(self, stop: StopReason) -> dict[str, float]:
        """The judge's metrics, those of the tools, and counts of the episode: tool calls and those that failed; where
        the task knows its evidence, those that were useful, and whether it was answered without all of it."""
        answered = stop is StopReason.ANSWERED
        counts = {"format": float(stop.keeps_format), "calls": float(len(self._calls))}
        if self.task.evidence:
            counts["useful_calls"] = float(self._useful)
            counts["early_answer"] = float(answered and not self._seen.issuperset(self.task.evidence))
        counts["tool_failures"] = float(self._failures)
        return {**self.judge(self._answer if answered else None, self.task), **counts, **self._measures()}

    def fork(self) -> ToolUse:
        """A copy that goes on by itself; the tools are shared."""
        return copy.copy(self)  # all that an episode changes is immutable

    def _measures(self) -> dict[str, float]:
        measures: dict[str, float] = {}
        for name, tool in self.tools.items():
            if isinstance(tool, Measured):
                measures |= tool.measure([call.arguments for call in self._calls if call.name == name])
        return measures

    def _call_all(self, action: Action) -> StepResult:
        useful, new = self._useful, self._new
        texts, calls = zip(*map(self._call, action.calls), strict=True)
        succeeded = any(call.result in (CallResult.FOUND, CallResult.EMPTY) for call in calls)
        return StepResult(
            self.dialect.observe(texts, self.schemas),
            stop=StopReason.TOOL_FAILURE if self._failures >= self.max_tool_failures else None,
            useful=self._useful > useful if self.task.evidence and succeeded else None,
            calls=calls,
            action=action.name,
            n_new_pieces=self._new - new,
        )

    def _call(self, call: ToolCall) -> tuple[str, Call]:
        """The result as text, and how the call went."""
        self._calls += (call,)
        called = self._functions[call.name]
        try:
            arguments = called.arguments(call.arguments, self.task)
            result = call_with_timeout(called.function, self.tool_timeout, arguments)
        except SettingError:
            raise
        except ToolError as error:
            told, failed = f"The {call.name} failed: {error}.", Call(call.name, CallResult.REFUSED, str(error))
        except Exception as error:  # whatever a user's tool raises is counted, and told to those who watch the run
            late = f"no answer within data.environment.tool_timeout={self.tool_timeout:g} seconds"
            why = late if isinstance(error, TimeoutError) and not str(error) else f"{type(error).__name__}: {error}"
            told, failed = f"The {call.name} failed.", Call(call.name, CallResult.FAILED, why)
        else:
            return self._take(call.name, result)
        self._failures += 1
        return told, failed

    def _take(self, name: str, result: str | Sequence[str]) -> tuple[str, Call]:
        pieces = [result] if isinstance(result, str) else result
        if not isinstance(pieces, list | tuple) or not all(isinstance(piece, str) for piece in pieces):
            key = f"data.environment.tools.{name}"
            raise SettingError(f"{key}: it returned {result!r}; expected a text or a list of texts")
        shown = {*pieces, *(page(title) for title, _ in map(split_title, pieces) if title)}
        self._useful += bool(shown & set(self.task.evidence) - self._seen)
        self._new += len({*pieces} - self._seen)
        self._seen |= shown
        text = result if isinstance(result, str) else self.dialect.layout(pieces)
        return text, Call(name, CallResult.FOUND) if pieces else Call(name, CallResult.EMPTY, "it found nothing")
