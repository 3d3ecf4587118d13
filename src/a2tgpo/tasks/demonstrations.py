"""Demonstrations: worked episodes to be imitated, from the reference calls of tasks or from files of conversations."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2tgpo.environments.dialects.arguments import argument_from_text
from a2tgpo.environments.dialects.examples import Example, ExampleTurn
from a2tgpo.environments.protocols import Tool, ToolCall
from a2tgpo.rollouts.thinking import END_THINK, THINK
from a2tgpo.rollouts.trajectory import Task
from a2tgpo.system.errors import SettingError
from a2tgpo.system.jsonl import lines, read_json

FORM = (
    "expected {messages: […]} or {steps: […]}, in order one of the user, those of the assistant with tool_calls and of "
    "the tools with their results, and the assistant's answer"
)


def from_reference_calls(task: Task, tools: Sequence[Tool]) -> Example:
    """The task's reference calls, to be played, and its first accepted answer.

    Raises SettingError where it has none, or nobody says of which tool they are.
    """
    if not task.reference_calls:
        raise SettingError(
            f"data.tasks: task {task.task_id} has no reference calls; expected questions that say how they are "
            "answered, or data.module.demonstrations=FILE"
        )
    if len(tools) != 1 or not tools[0].parameters:
        raise SettingError(
            f"data.environment.tools={[tool.name for tool in tools]}: reference calls do not say which tool they are "
            "of; expected one tool, or data.module.demonstrations=FILE"
        )
    name, parameter = next(iter(tools[0].parameters.items()))
    turns = [
        ExampleTurn(f"I need {call}.", (ToolCall(tools[0].name, {name: argument_from_text(call, parameter)}),), ())
        for call in task.reference_calls
    ]
    return Example(f"task {task.task_id}", task.question, tuple(turns), task.answers[0])


def read_conversations(path: Path) -> list[Example]:
    """One worked episode a line of a jsonl file: a conversation in the form of OpenAI's chat completions, `messages`,
    or of the Agent Trajectory Interchange Format (ATIF), `steps`.

    What the assistant says beside its calls, or `reasoning_content`, is its thought; system messages are left out.
    Raises ValueError naming file and line where there is no such conversation.
    """
    label = f"data.module.demonstrations={path}"
    if not path.is_file():
        raise ValueError(f"{label}: no such file; expected a .jsonl file with a conversation a line")
    read = []
    for number, _, line in lines(path):
        where = f"{label}: line {number}"
        try:
            conversation = read_json(line)
            messages = _from_atif(conversation["steps"]) if "steps" in conversation else conversation["messages"]
            messages = [message for message in messages if message["role"] not in ("system", "developer")]
            read.append(_read_conversation(f"{path.stem}/{number}", messages))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{where}: {type(error).__name__}: {error}; {FORM}") from error
    if not read:
        raise ValueError(f"{label}: no lines; {FORM}")
    return read


def _from_atif(steps: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for step in steps:
        calls = [
            {"id": call["tool_call_id"], "function": {"name": call["function_name"], "arguments": call["arguments"]}}
            for call in step.get("tool_calls") or ()
        ]
        said = {"role": {"agent": "assistant"}.get(step["source"], step["source"]), "content": step["message"]}
        yield {**said, "reasoning_content": step.get("reasoning_content"), "tool_calls": calls}
        for result in (step.get("observation") or {}).get("results", ()):
            yield {"role": "tool", "tool_call_id": result.get("source_call_id"), "content": result["content"]}


def _read_conversation(key: str, messages: Sequence[Mapping[str, Any]]) -> Example:
    question, *said, last = messages
    if question["role"] != "user" or last["role"] != "assistant" or last.get("tool_calls") or not _text(last):
        raise ValueError(f"roles {[message['role'] for message in messages]}")
    return Example(key, _text(question), tuple(_turns(said)), _text(last))


def _turns(messages: Sequence[Mapping[str, Any]]) -> Iterator[ExampleTurn]:
    rest = list(messages)
    while rest:
        asked = rest.pop(0)
        calls = [call["function"] for call in asked["tool_calls"]] if asked["role"] == "assistant" else []
        heard, rest = rest[: len(calls)], rest[len(calls) :]
        if not calls or [message["role"] for message in heard] != ["tool"] * len(calls):
            raise ValueError(f"a message of the {asked['role']} without calls, or calls without results")
        ids, by_id = [call.get("id") for call in asked["tool_calls"]], {m.get("tool_call_id"): m for m in heard}
        if None not in by_id and by_id.keys() != set(ids):
            raise ValueError(f"results of {[*by_id]} behind the calls {ids}")
        ordered = [by_id[i] for i in ids] if len(by_id) == len(heard) else heard
        thought = asked.get("reasoning_content") or _text(asked).replace(THINK, "").replace(END_THINK, "")
        called = tuple(ToolCall(call["name"], _arguments(call["arguments"])) for call in calls)
        yield ExampleTurn(thought.strip(), called, tuple(map(_text, ordered)))


def _arguments(written: str | Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = read_json(written.encode()) if isinstance(written, str) else written
    if not isinstance(arguments, Mapping):
        raise ValueError(f"arguments {written!r}")
    return arguments


def _text(message: Mapping[str, Any]) -> str:
    """The content of a message, which may be a text, a list of parts, or null beside calls."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
