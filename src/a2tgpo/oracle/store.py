"""Forks in one compressed file: a few hundred kilobytes for five hundred trajectories."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from a2tgpo.oracle.forked import Forked
from a2tgpo.rollouts.trajectory import Call, CallResult, StopReason, Task, Trajectory, Turn
from a2tgpo.system.files import whole_file

ARRAYS = ("answer_logprob", "alias_mask", "state_mask", "fork_outcome", "gradient")


def write_forks(path: Path, forked: Forked) -> None:
    """Write `forked` to `path`; gradients keep half precision, log-probs of sampled tokens four decimals."""
    halved = replace(forked, gradient=forked.gradient.half())
    arrays = {name: getattr(halved, name).numpy() for name in ARRAYS}
    text = json.dumps([_record(trajectory) for trajectory in forked.trajectories])
    numbers = {"log_gain_noise": forked.log_gain_noise, "gradient_kept": forked.gradient_kept}
    with whole_file(path, binary=True) as file:
        np.savez_compressed(file, trajectories=np.frombuffer(text.encode(), dtype=np.uint8), **arrays, **numbers)


def read_forks(path: Path) -> Forked:
    """The forks in `path`. Raises ValueError naming the file where it holds anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in ARRAYS}
            records = json.loads(file["trajectories"].tobytes())
            numbers = {name: float(file[name]) for name in ("log_gain_noise", "gradient_kept")}
        arrays["gradient"] = arrays["gradient"].float()
        return Forked([_trajectory(record) for record in records], **arrays, **numbers)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}; expected forks written by src/credit.py") from error


def _record(trajectory: Trajectory) -> dict[str, Any]:
    turns = tuple(
        replace(turn, action_logprobs=tuple(round(p, 4) for p in turn.action_logprobs)) for turn in trajectory.turns
    )
    return asdict(replace(trajectory, turns=turns, metrics=dict(trajectory.metrics)))


def _trajectory(record: Mapping[str, Any]) -> Trajectory:
    turns = tuple(
        Turn(**{**_tuples(turn), "calls": tuple(_call(call) for call in turn["calls"])}) for turn in record["turns"]
    )
    own = _tuples(record) | {"task": Task(**_tuples(record["task"])), "turns": turns}
    return Trajectory(**own | {"stop": StopReason(record["stop"])})


def _call(record: Mapping[str, Any]) -> Call:
    return Call(**{**record, "result": CallResult(record["result"])})


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
