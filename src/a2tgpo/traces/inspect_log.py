"""A log of Inspect: a trajectory a sample, scored by its outcome and metrics, what else is known of it and of its turns
in `metadata`. Written through the package `inspect-ai`."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from a2tgpo.traces.trace import Trace, TraceTurn, require_package
from a2tgpo.viewer.page import finite_json

OUTCOME = "outcome"


def write(traces: Sequence[Trace], path: Path) -> None:
    """Write `traces` to `path`, which ends in .eval or .json. Raises ValueError where it does not, or the package is
    not installed."""
    if path.suffix not in (".eval", ".json"):
        raise ValueError(f"{path}: expected a name that ends in .eval or .json, by which Inspect knows its logs")
    log = require_package("inspect_ai.log", "inspect-ai")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        log.write_eval_log(log.EvalLog.model_validate(_log(traces)), str(part))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _log(traces: Sequence[Trace]) -> dict[str, Any]:
    origin = dict(traces[0].origin)
    now = datetime.now(UTC).isoformat()
    samples = [_sample(trace) for trace in traces]
    spec = {
        "run_id": origin.get("run", ""),
        "created": now,
        "task": "a2tgpo",
        "dataset": {"samples": len({sample["id"] for sample in samples})},
        "model": "a2tgpo/policy",
        "config": {"epochs": max(sample["epoch"] for sample in samples)},
        "metadata": finite_json(origin),
    }
    results = {"total_samples": len(samples), "completed_samples": len(samples), "scores": list(_means(samples))}
    stats = {"started_at": now, "completed_at": now}
    return {"status": "success", "eval": spec, "results": results, "stats": stats, "samples": samples}


def _means(samples: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    values: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, score in sample["scores"].items():
            values[name].append(float(score["value"]))
    for name, scored in values.items():
        yield {"name": name, "scorer": name, "metrics": {"mean": {"name": "mean", "value": fmean(scored)}}}


def _sample(trace: Trace) -> dict[str, Any]:
    """The trajectories of a prompt are epochs of one sample."""
    facts = trace.facts
    prompt = [{"role": _role(message), "content": message["content"]} for message in trace.prompt]
    messages = [message for t, turn in enumerate(trace.turns) for message in _messages(trace, t, turn)]
    last = next(message for message in reversed(messages) if message["role"] == "assistant")
    answer = trace.turns[-1].content
    scores = {name: {"value": value} for name, value in {**facts["metrics"], OUTCOME: facts["outcome"]}.items()}
    scores[OUTCOME]["answer"] = answer
    return finite_json(
        {
            "id": f"{facts['iteration']}-{facts['rank']}-{facts['group']}",
            "epoch": facts["sample"] + 1,
            "input": facts["question"],
            "target": list(facts["answers"]),
            "messages": [*prompt, *messages],
            "output": {"model": "a2tgpo/policy", "choices": [{"message": last, "stop_reason": "stop"}]},
            "scores": scores,
            "metadata": dict(facts),
            "turn_count": len(trace.turns),
        }
    )


def _role(message: Mapping[str, str]) -> str:
    return "user" if message["role"] == "user" else "system"


def _messages(trace: Trace, t: int, turn: TraceTurn) -> Iterator[dict[str, Any]]:
    said = {"type": "text", "text": turn.content}
    content = [{"type": "reasoning", "reasoning": turn.thought}, said] if turn.thought else turn.content
    calls = [{"id": c.id, "function": c.name, "arguments": dict(c.arguments)} for c in turn.calls]
    yield {
        "id": f"{trace.name}-{t}",
        "role": "assistant",
        "source": "generate",
        "content": content,
        "tool_calls": calls or None,
        "metadata": dict(turn.facts),
    }
    for call in turn.calls:
        if call.result is not None:
            key = {"tool_call_id": call.id, "function": call.name}
            yield {"id": f"{trace.name}-{call.id}", "role": "tool", "content": call.result, **key}
    if turn.heard:
        yield {"id": f"{trace.name}-{t}-heard", "role": "user", "content": turn.heard}
