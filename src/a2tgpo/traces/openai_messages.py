"""JSON lines of OpenAI chat messages: a trajectory a line, `messages` and `tools`, and what else is known of it in
`metadata`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.traces.conversation import read_conversation, write_conversation
from a2tgpo.traces.reading import read_each, with_facts
from a2tgpo.traces.trace import Trace
from a2tgpo.viewer.page import finite_json


def write(traces: Sequence[Trace], path: Path) -> None:
    """Write `traces` to `path`."""
    write_jsonl(path, [finite_json(_line(trace)) for trace in traces])


def _line(trace: Trace) -> dict[str, Any]:
    told = {**trace.facts, "turns": [dict(turn.facts) for turn in trace.turns], "origin": dict(trace.origin)}
    tools = {"tools": list(trace.tools)} if trace.tools else {}
    return {"messages": list(write_conversation(trace)), **tools, "metadata": told}


def read(path: Path) -> list[Trace]:
    """The trajectories in `path`. Raises ValueError naming file, line and field where one is none."""
    return read_each(path, _read)


def _read(row: Mapping[str, Any]) -> Trace:
    prompt, turns = read_conversation(row.get("messages"), "messages")
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError("tools: expected a list of tools")
    return with_facts(prompt, turns, tuple(tools), row.get("metadata", {}), "metadata")
