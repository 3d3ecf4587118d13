"""JSON lines of the Agent Trajectory Interchange Format (ATIF) 1.8: a trajectory a line, what else is known of it and
of its turns in `extra`. Written and read through the package `atif`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from a2tgpo import __version__
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.traces.conversation import read_conversation
from a2tgpo.traces.reading import read_each, with_facts
from a2tgpo.traces.trace import Trace, require_package
from a2tgpo.viewer.page import finite_json

VERSION = "ATIF-v1.8"
SOURCES = {"system": "system", "user": "user", "agent": "assistant"}
"""Roles of messages by the source of a step."""


def write(traces: Sequence[Trace], path: Path) -> None:
    """Write `traces` to `path`. Raises ValueError where the package is not installed."""
    atif = require_package("atif", "atif")
    write_jsonl(path, [_document(trace, atif).to_json_dict() for trace in traces])


def _document(trace: Trace, atif: ModuleType) -> Any:
    openings = [_opening(message) for message in trace.prompt]
    said = [_step(trace, t) for t in range(len(trace.turns))]
    agent = {"name": "a2tgpo", "version": __version__, "tool_definitions": list(trace.tools) or None}
    document = {
        "schema_version": VERSION,
        "session_id": trace.origin.get("run"),
        "trajectory_id": trace.name,
        "agent": agent,
        "steps": [{"step_id": n, **step} for n, step in enumerate([*openings, *said], 1)],
        "final_metrics": _totals(trace),
        "extra": {**trace.facts, "origin": dict(trace.origin)},
    }
    return atif.Trajectory.model_validate(finite_json(document))


def _opening(message: Mapping[str, str]) -> dict[str, str]:
    return {"source": "user" if message["role"] == "user" else "system", "message": message["content"]}


def _step(trace: Trace, t: int) -> dict[str, Any]:
    turn = trace.turns[t]
    facts = dict(turn.facts)
    ids, logprobs = facts.pop("action_ids", None), facts.pop("action_logprobs", None)
    calls = [{"tool_call_id": c.id, "function_name": c.name, "arguments": dict(c.arguments)} for c in turn.calls]
    results = [{"source_call_id": c.id, "content": c.result} for c in turn.calls if c.result is not None]
    results += [{"content": turn.heard}] if turn.heard else []
    step = {
        "source": "agent",
        "message": turn.content,
        "reasoning_content": turn.thought or None,
        "tool_calls": calls or None,
        "observation": {"results": results} if results else None,
        "metrics": {"completion_tokens": len(ids), "completion_token_ids": ids, "logprobs": logprobs} if ids else None,
        "extra": facts,
    }
    return step | ({"is_copied_context": True} if t < trace.facts["n_shared"] else {})


def _totals(trace: Trace) -> dict[str, Any]:
    sampled = sum(len(turn.facts.get("action_ids", ())) for turn in trace.turns)
    return {"total_completion_tokens": sampled, "total_steps": len(trace.prompt) + len(trace.turns)}


def read(path: Path) -> list[Trace]:
    """The trajectories in `path`. Raises ValueError naming file, line and field where one is none, or where the package
    is not installed."""
    atif = require_package("atif", "atif")
    return read_each(path, lambda row: _read(row, atif))


def _read(row: Mapping[str, Any], atif: ModuleType) -> Trace:
    try:
        document = atif.Trajectory.model_validate(row).to_json_dict(exclude_none=False)
    except ValueError as error:
        first = error.errors()[0]  # type: ignore[attr-defined]  # those of pydantic
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'trajectory'}: {first['msg']}; expected ATIF") from None
    steps = document["steps"]
    messages = [message for step in steps for message in _messages(step)]
    prompt, turns = read_conversation(messages, "messages of steps")
    told = [_told(step) for step in steps if step["source"] == "agent"]
    facts = {**(document["extra"] or {}), "turns": told}
    return with_facts(prompt, turns, tuple(document["agent"]["tool_definitions"] or ()), facts, "extra")


def _messages(step: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    calls = [
        {"id": call["tool_call_id"], "function": {"name": call["function_name"], "arguments": call["arguments"]}}
        for call in step["tool_calls"] or ()
    ]
    yield {
        "role": SOURCES[step["source"]],
        "content": step["message"],
        "reasoning_content": step["reasoning_content"],
        "tool_calls": calls,
    }
    for result in (step["observation"] or {}).get("results", ()):
        key = result["source_call_id"]
        role = {"role": "user"} if key is None else {"role": "tool", "tool_call_id": key}
        yield {**role, "content": result["content"]}


def _told(step: Mapping[str, Any]) -> dict[str, Any]:
    metrics = step["metrics"] or {}
    tokens = {"action_ids": metrics.get("completion_token_ids"), "action_logprobs": metrics.get("logprobs")}
    return {**{name: value for name, value in tokens.items() if value is not None}, **(step["extra"] or {})}
