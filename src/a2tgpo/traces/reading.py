"""What the readers share: objects of a file, and what is known beside a conversation."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from a2tgpo.system.jsonl import lines, read_json
from a2tgpo.traces.facts import ORIGIN, TRAJECTORY, TURN, checked, require_needed
from a2tgpo.traces.trace import Trace, TraceTurn


def read_each(path: Path, read_one: Callable[[Mapping[str, Any]], Trace]) -> list[Trace]:
    """What `read_one` makes of each line of a .jsonl file, or of the object, or each in the list, of a .json file.

    Raises ValueError naming file and line where it raises one, or there is no JSON object, or none at all.
    """
    traces = list(_each(path, read_one))
    if not traces:
        raise ValueError(f"{path}: it is empty; expected a trajectory a line")
    return traces


def _each(path: Path, read_one: Callable[[Mapping[str, Any]], Trace]) -> Iterator[Trace]:
    for where, text in _texts(path):
        try:
            row = read_json(text)
            if not isinstance(row, Mapping):
                raise ValueError(f"{type(row).__name__}; expected a JSON object")
            yield read_one(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None  # whose cause would be told in its place


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and bytes of each object."""
    if path.suffix != ".json":
        yield from ((f"{path}, line {number}", line) for number, _, line in lines(path))
        return
    text = path.read_bytes()
    if text.lstrip()[:1] != b"[":
        yield str(path), text
        return
    try:
        rows = read_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    yield from ((f"{path}, item {number}", json.dumps(row).encode()) for number, row in enumerate(rows, 1))


def with_facts(
    prompt: tuple[Mapping[str, str], ...],
    turns: Sequence[TraceTurn],
    tools: tuple[Mapping[str, Any], ...],
    told: Any,
    place: str,
) -> Trace:
    """The trajectory of a conversation with what is `told` of it in the field `place`; its question is the first
    message of the user where nothing else is said. Raises ValueError naming the field that is wrong or missing."""
    facts = checked(told, TRAJECTORY, place)
    asked = next((message["content"] for message in prompt if message["role"] == "user"), "")
    if asked.strip():
        facts = {"question": asked, **facts}
    require_needed(facts, place)
    if facts.get("n_shared", 0) > len(turns):
        raise ValueError(f"{place}.n_shared: expected at most {len(turns)}, the messages of the assistant")
    per_turn = told.get("turns", [{} for _ in turns])
    if not isinstance(per_turn, list) or len(per_turn) != len(turns):
        raise ValueError(f"{place}.turns: expected a list of {len(turns)}, one for each message of the assistant")
    known = [checked(one, TURN, f"{place}.turns[{t}]") for t, one in enumerate(per_turn)]
    origin = checked(told.get("origin", {}), ORIGIN, f"{place}.origin")
    return Trace(prompt, tuple(replace(t, facts=f) for t, f in zip(turns, known, strict=True)), facts, tools, origin)
