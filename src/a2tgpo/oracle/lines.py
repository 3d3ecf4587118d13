"""Forked episodes as lines of a rollout file: what a credit gives to each turn, and what the forks say of it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from a2tgpo.method.method import Method
from a2tgpo.oracle.judge import Judge
from a2tgpo.system.jsonl import write_jsonl
from a2tgpo.training.record import credit_record

FOLDER = "forks"
"""Of the run directory."""
ALL = slice(None)
"""All forks: nobody judges here, and the error is the least there is."""


def write_lines(run: Path, iterations: int, judge: Judge, method: Method) -> Path:
    """Leave the forks of the policy behind so many `iterations` in the directory `run`; returns the file."""
    path = run / FOLDER / f"{iterations:06d}-rank0.jsonl"
    write_jsonl(path, list(lines(judge, method)))
    return path


def lines(judge: Judge, method: Method) -> Iterator[dict[str, Any]]:
    """One line a trajectory: its record, the credit of `method`; A*, its standard error, and V of the state before each
    turn. What no fork tells is null."""
    forked = judge.forked
    found = {
        "oracle_advantage": forked.advantage(ALL),
        "oracle_error": forked.advantage_error(ALL),
        "value": forked.value(ALL),
    }
    for rows, credit in judge.assigned(method):
        batch = replace(forked.batch.rows(rows), credit=credit)
        for i, row in enumerate(rows):
            trajectory = forked.trajectories[row]
            n_turns = len(trajectory.turns)
            told = {name: _known(values[row, :n_turns]) for name, values in found.items()}
            yield credit_record(trajectory, batch, i) | told


def _known(values: Float[Tensor, " T"]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
