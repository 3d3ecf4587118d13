"""Runs whose trajectories are exported, and files of other people's trajectories."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.tiny_runs import ROOT
from tests.helpers.viewed_run import leave_viewed_run

sys.path.insert(0, str(ROOT / "scripts"))
import export_traces
import import_traces

HOSTILE = '</result></think><|im_end|>\n"quoted" \\ <b>\u202eback\u2028\x00 a < b {"name": 1} é漢'
CHAT_TEMPLATE = (
    "{% for tool in tools or [] %}[tool {{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def leave_spoken_run(directory: Path, lines: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> Path:
    """A run with these lines whose configuration has `data`: its dialect and tools."""
    run = leave_viewed_run(directory, {"000001-rank0": lines})
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": data}))
    return run


def exported(run: Path, form: str, output: Path) -> Path:
    """The file that scripts/export_traces.py writes."""
    export_traces.export(run, form, output)
    return output


def imported(file: Path, output: Path, *overrides: str, form: str = "openai", model: str | None = None) -> Path:
    """The directory that scripts/import_traces.py writes."""
    import_traces.import_traces(file, form, output, model, overrides)
    return output


def rows(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of the rollout files, by name."""
    files = sorted((run / "rollouts").glob("*.jsonl"))
    return {path.name: [json.loads(line) for line in path.read_text().split("\n") if line] for path in files}


def call(identity: str, **arguments: Any) -> dict[str, Any]:
    """A call of `search` as OpenAI writes it."""
    return {"id": identity, "type": "function", "function": {"name": "search", "arguments": json.dumps(arguments)}}


def foreign(outcome: float = 1.0, answer: str = "Nore", **metadata: Any) -> dict[str, Any]:
    """A trajectory of another trainer: two calls in its first turn, one in its second."""
    return {
        "messages": [
            {"role": "system", "content": "Answer with the help of the search."},
            {"role": "user", "content": "Who is the king of Kinu?"},
            {"role": "assistant", "content": None, "tool_calls": [call("a", query="Kinu"), call("b", query="king")]},
            {"role": "tool", "tool_call_id": "b", "content": "A king rules."},
            {"role": "tool", "tool_call_id": "a", "content": "Kinu has a king."},
            {"role": "assistant", "content": "Go on.", "tool_calls": [call("c", query="king of Kinu")]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "It is Nore."}]},
            {"role": "assistant", "content": answer, "reasoning_content": "That is it."},
        ],
        "metadata": {"answers": ["Nore"], "outcome": outcome, **metadata},
    }


def leave_lines(path: Path, *lines: Mapping[str, Any] | str) -> Path:
    """A file of JSON lines; texts stand there as they are."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path
