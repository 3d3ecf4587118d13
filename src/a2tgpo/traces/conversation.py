"""A conversation as messages in the form of OpenAI's chat completions, written and read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from a2tgpo.system.jsonl import read_json
from a2tgpo.traces.trace import Trace, TraceCall, TraceTurn

OPENING, MODEL, TOOL = ("system", "developer", "user"), "assistant", "tool"
"""Roles."""


def write_conversation(trace: Trace) -> Iterator[dict[str, Any]]:
    """The messages of a trajectory. What is heard without a call is said by the user."""
    yield from map(dict, trace.prompt)
    for turn in trace.turns:
        said: dict[str, Any] = {"role": MODEL, "content": turn.content}
        if turn.thought:
            said["reasoning_content"] = turn.thought
        if turn.calls:
            said["tool_calls"] = [_written(call) for call in turn.calls]
        yield said
        for call in turn.calls:
            if call.result is not None:
                yield {"role": TOOL, "tool_call_id": call.id, "content": call.result}
        if turn.heard:
            yield {"role": "user", "content": turn.heard}


def _written(call: TraceCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def read_conversation(messages: Any, place: str) -> tuple[tuple[Mapping[str, str], ...], list[TraceTurn]]:
    """The messages in front of the first turn, and the turns; all but the last heard something.

    Raises ValueError naming the field that is wrong.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{place}: expected a list of messages")
    prompt: list[Mapping[str, str]] = []
    turns: list[list[tuple[str, Mapping[str, Any]]]] = []
    for n, message in enumerate(messages):
        where = f"{place}[{n}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in (*OPENING, MODEL, TOOL):
            raise ValueError(f"{where}.role: expected {', '.join((*OPENING, MODEL, TOOL))}")
        if role == MODEL:
            turns.append([(where, message)])
        elif turns:
            turns[-1].append((where, message))
        elif role == TOOL:
            raise ValueError(f"{where}: a result in front of all calls; expected a message of the assistant before it")
        else:
            prompt.append({"role": role, "content": _text(message, where)})
    if not turns:
        raise ValueError(f"{place}: no message of the assistant; expected one at least")
    read = [_turn(*said, heard) for said, *heard in turns]
    for ((where, _), *_), turn in zip(turns[:-1], read, strict=False):
        if len(turn.results) < max(len(turn.calls), 1):
            raise ValueError(f"{where}: a result is missing; expected one for each call, or an answer of the user")
    return tuple(prompt), read


def _turn(where: str, said: Mapping[str, Any], heard: Sequence[tuple[str, Mapping[str, Any]]]) -> TraceTurn:
    asked = said.get("tool_calls") or []
    if not isinstance(asked, list):
        raise ValueError(f"{where}.tool_calls: expected a list of calls")
    calls = [_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(asked)]
    ids = [identity for identity, _, _ in calls]
    if len({*ids}) < len(ids):
        raise ValueError(f"{where}.tool_calls: two have the same id; expected an id a call")
    results: dict[str, str] = {}
    told: list[str] = []
    for place, message in heard:
        if message["role"] != TOOL:
            told.append(_text(message, place))
            continue
        key = message.get("tool_call_id")
        if key in results or key not in ids:
            raise ValueError(f"{place}.tool_call_id: expected that of a call in {where} that has no result yet")
        results[key] = _text(message, place)
    thought = said.get("reasoning_content") or ""
    if not isinstance(thought, str):
        raise ValueError(f"{where}.reasoning_content: expected a text")
    made = tuple(TraceCall(*call, results.get(call[0])) for call in calls)
    return TraceTurn(_text(said, where), thought, made, "\n".join(told))


def _call(call: Any, where: str) -> tuple[str, str, Mapping[str, Any]]:
    """Id, name and arguments."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(call.get("id"), str):
        raise ValueError(f"{where}: expected {{id, function: {{name, arguments}}}}")
    if not isinstance(function.get("name"), str):
        raise ValueError(f"{where}.function.name: expected a text")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments.encode("utf-8", "replace"))
        except ValueError as error:
            raise ValueError(f"{where}.function.arguments: {error}; expected a JSON object") from error
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where}.function.arguments: expected a JSON object")
    return call["id"], function["name"], arguments


def _text(message: Mapping[str, Any], where: str) -> str:
    """The content of a message, which may be a text, a list of texts, or null."""
    content = message.get("content")
    parts = [{"type": "text", "text": content or ""}] if content is None or isinstance(content, str) else content
    if not isinstance(parts, list) or not all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts
    ):
        raise ValueError(f"{where}.content: expected a text or a list of texts")
    return "".join(part["text"] for part in parts)
