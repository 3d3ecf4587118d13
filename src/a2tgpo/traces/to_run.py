"""A run directory out of traces: rollout files with credit, and what their readers need beside them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.system.files import whole_file
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.traces.trace import Trace
from a2tgpo.viewer.run_data import CONFIG, ROLLOUTS

STAGES = ("outcome", "normalizer", "accumulator", "combiner")


def placed(traces: Sequence[Trace]) -> list[Trace]:
    """`traces` with iteration, rank, group, sample and task_id: as recorded, or else in order, those of one task_id, or
    of one question, as one group; in order of iteration.

    Raises ValueError where two have the same place.
    """
    recorded = all({"group", "sample"} <= trace.facts.keys() for trace in traces)
    groups: dict[Any, int] = {}
    sizes: dict[int, int] = defaultdict(int)
    made: dict[str, Trace] = {}
    for trace in traces:
        facts = {"iteration": 1, "rank": 0, **trace.facts}
        if not recorded:
            key = facts["iteration"], facts["rank"], facts.get("task_id", facts["question"])
            facts["group"] = groups.setdefault(key, len(groups))
            facts["sample"] = sizes[facts["group"]]
            sizes[facts["group"]] += 1
        trace = replace(trace, facts={"task_id": str(facts["group"]), **facts})
        if trace.name in made:
            raise ValueError(f"iteration-rank-group-sample {trace.name}: twice; expected the trajectories of one run")
        made[trace.name] = trace
    return sorted(made.values(), key=lambda trace: trace.facts["iteration"])


def recorded_model(traces: Sequence[Trace]) -> dict[str, Any]:
    """What the recorded credit was made of, in the form of a configuration. Its parts are bare names: what a file says
    is shown and never run.

    Raises ValueError where the traces are of several runs.
    """
    origin = traces[0].origin
    if any(trace.origin != origin for trace in traces):
        raise ValueError("origin: it differs between trajectories; expected those of one run, or a model (--model)")
    numbers = {"accumulator": ["gamma"], "combiner": ["alpha"]}
    stages = {name: _part(origin, name, numbers.get(name, [])) for name in STAGES if origin.get(name)}
    return {
        "signal": _part(origin, "signal") | ({"gain": origin["unit"]} if origin.get("unit") else {}),
        "credit": _part(origin, "credit") | stages,
        "clipper": _part(origin, "clipper", ["beta", "eps_low", "eps_high"]),
    }


def _part(origin: Mapping[str, Any], name: str, numbers: Sequence[str] = ()) -> dict[str, Any]:
    told = {number: float(origin[number]) for number in numbers if origin.get(number) is not None}
    return {"_target_": origin.get(name, ""), **told}


def require_new(directory: Path) -> None:
    """Raises ValueError where `directory` is not new or empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory}: not empty; expected a new folder")


def write_run(
    directory: Path, traces: Sequence[Trace], rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> None:
    """Write rollout files and configuration."""
    files: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trace, row in zip(traces, rows, strict=True):
        files[f"{trace.facts['iteration']:06d}-rank{trace.facts['rank']}"].append(row)
    for stem, lines in files.items():
        write_jsonl(directory / ROLLOUTS / f"{stem}.jsonl", lines)
    with whole_file(directory / CONFIG) as file:
        yaml.safe_dump(dict(config), file, allow_unicode=True)
