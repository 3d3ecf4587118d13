"""The traces of verifiers, as its runs leave them in `traces.jsonl`: a trajectory an episode, a message a node, with
tokens, log-probs and the advantage of each. Written through the package `verifiers`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.traces.trace import Trace, TraceCall, TraceTurn, require_package
from a2tgpo.viewer.page import finite_json

SPECIAL = {"action_ids", "action_logprobs", "observation_ids"}
"""What of the facts of a turn stands in its nodes."""


def write(traces: Sequence[Trace], path: Path) -> None:
    """Write `traces` to `path`, which its readers expect to be called traces.jsonl. Raises ValueError where the package
    is not installed."""
    v1 = require_package("verifiers.v1.episode", "verifiers")
    write_jsonl(path, [_episode(trace, v1) for trace in traces])


def _episode(trace: Trace, v1: ModuleType) -> dict[str, Any]:
    facts = trace.facts
    work = {"type": "train", "step": facts["iteration"]}
    run = str(trace.origin.get("run", ""))
    task = {"type": "Task", "data": _task(facts), "key": facts["task_id"]}
    episode = {
        "id": trace.name,
        "env": {"id": "a2tgpo"},
        "task": task,
        "group": {"id": f"{facts['iteration']}-{facts['rank']}-{facts['group']}"},
        "run": {"type": "train", "id": run, "work": work},
        "ok": True,
        "traces": [_trace(trace, task)],
    }
    return v1.WireEpisode.model_validate(episode).to_record(float_decimals=None)


def _task(facts: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: facts[name] for name in ("question", "answers", "kind")}
    return {"id": facts["task_id"], "prompt": facts["question"], **own}


def _trace(trace: Trace, task: Mapping[str, Any]) -> dict[str, Any]:
    facts = trace.facts
    nodes = [*_prompt(trace), *(node for t, turn in enumerate(trace.turns) for node in _nodes(trace, t, turn))]
    turns = [{name: value for name, value in turn.facts.items() if name not in SPECIAL} for turn in trace.turns]
    kept = {name: value for name, value in facts.items() if name not in ("prompt_ids", "metrics")}
    return {
        "id": trace.name,
        "task": task,
        "agent": {"config": {"runtime": {"type": "subprocess"}}, "name": "policy"},
        "tools": [_tool(tool["function"]) for tool in trace.tools],
        "nodes": [{"parent": n - 1 if n else None, "timestamp": 0.0, **node} for n, node in enumerate(nodes)],
        "rewards": {"outcome": {"score": facts["outcome"]}},
        "metrics": dict(facts["metrics"]),
        "info": finite_json({**kept, "turns": turns, "origin": dict(trace.origin)}),
        "is_completed": True,
        "ok": True,
        "stop_condition": facts["stop"],
        "timing": {"start": 0.0},
    }


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {name: function[name] for name in ("name", "description", "parameters") if name in function}


def _prompt(trace: Trace) -> Iterator[dict[str, Any]]:
    """All tokens of the prompt stand in its last message: where one message ends is not recorded."""
    for n, message in enumerate(trace.prompt, 1):
        role = "user" if message["role"] == "user" else "system"
        ids = trace.facts.get("prompt_ids", ()) if n == len(trace.prompt) else ()
        yield {"message": {"role": role, "content": message["content"]}, **_given(ids)}


def _nodes(trace: Trace, t: int, turn: TraceTurn) -> Iterator[dict[str, Any]]:
    facts = turn.facts
    ids, own = list(facts.get("action_ids", ())), t >= trace.facts["n_shared"]
    sampled = {"token_ids": ids, "mask": [own] * len(ids), "sampled": own}
    if own and ids:
        sampled["logprobs"] = facts.get("action_logprobs", [])
        sampled["advantages"] = [facts["advantage"]] * len(ids) if "advantage" in facts else None
    message = {"role": "assistant", "content": turn.content, "reasoning_content": turn.thought or None}
    yield {"message": {**message, "tool_calls": list(map(_call, turn.calls)) or None}, **sampled}
    heard = facts.get("observation_ids", ())
    for call in turn.calls:
        if call.result is not None:
            yield {"message": {"role": "tool", "tool_call_id": call.id, "content": call.result}, **_given(heard)}
            heard = ()
    if turn.heard:
        yield {"message": {"role": "user", "content": turn.heard}, **_given(heard)}


def _given(ids: Sequence[int]) -> dict[str, Any]:
    """What was read, not sampled."""
    return {"token_ids": list(ids), "mask": [False] * len(ids)}


def _call(call: TraceCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
