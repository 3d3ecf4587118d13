"""Collectives over ranks. In a single process everything here is the identity."""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist


def rank_and_world_size() -> tuple[int, int]:
    """(rank, number of ranks)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def first_of_launch() -> bool:
    """Is this the process that writes for all of its launch? It can be asked before they can speak to each other."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return int(next((os.environ[name] for name in names if name in os.environ), "0")) == 0


def launch_name(own: str) -> str:
    """A name that all processes of one launch share, before they can speak to each other; alone, it is `own`.

    Under torchrun it is `own` of the process that asks first, kept in the agents' store; in a SLURM step of several
    tasks it is the id of the step.
    """
    place = os.environ
    if place.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = dist.TCPStore(place["MASTER_ADDR"], int(place["MASTER_PORT"]), wait_for_workers=False)
        return store.compare_set(f"launch_name/{place['TORCHELASTIC_RESTART_COUNT']}", "", own).decode()
    if int(place.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return "-".join(["slurm", *(place[name] for name in names if name in place)])
    return own


Value = TypeVar("Value")


def gather(value: Value) -> list[Value]:
    """`value` of every rank, in rank order."""
    _, n_ranks = rank_and_world_size()
    values = [value] * n_ranks
    if n_ranks > 1:
        dist.all_gather_object(values, value)
    return values


def all_gather_rows(tensor: Tensor, padding: int | float | bool) -> Tensor:
    """Rows of all ranks in rank order; a second axis of unequal length is filled with `padding`."""
    if rank_and_world_size()[1] == 1:
        return tensor
    parts = gather(tensor.cpu())
    if tensor.ndim == 1:
        return torch.cat(parts)
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=padding) for part in parts])


def local_rows(count: int) -> slice:
    """Where this rank's `count` rows stand among the gathered ones; ranks may have more or fewer."""
    rank, _ = rank_and_world_size()
    start = sum(gather(count)[:rank])
    return slice(start, start + count)


def max_over_ranks(value: int | float) -> int | float:
    """The largest `value` of any rank."""
    return max(gather(value))


def mean_over_ranks(metrics: dict[str, float]) -> dict[str, float]:
    """Mean of each metric over the ranks that have it."""
    merged: dict[str, list[float]] = {}
    for part in gather(metrics):
        for name, value in part.items():
            merged.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in merged.items()}


def shard(items: Sequence, block: int) -> list:
    """This rank's part of each consecutive `block` of `items`: ranks split every block alike, groups stay whole."""
    rank, n_ranks = rank_and_world_size()
    part = block // n_ranks
    return [
        item for start in range(0, len(items), block) for item in items[start + rank * part : start + (rank + 1) * part]
    ]
