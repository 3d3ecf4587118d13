"""Collectives over ranks. In a single process everything here is the identity."""

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
