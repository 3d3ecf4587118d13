"""A key-value cache whose rows have lengths of their own and are written in place."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

LayerStates = tuple[Tensor, Tensor]
"""Keys and values of one row in one layer, each [heads, length, head size]."""


def attention_dtype(states: Tensor) -> torch.dtype:
    """What attention computes in: under autocast its lower precision, in which states may be kept from the start."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, capacity, head size]; each row is filled from its own position on."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], capacity: int) -> None:
        """From pieces of some rows each, [rows, heads, length, head size]."""
        super().__init__()
        self.keys, self.values = _in_room(keys, capacity), _in_room(values, capacity)
        self.is_initialized = True
        self.slots: Int[Tensor, "B Q"] | None = None
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write the new tokens at `slots`; return all that is filled in any row."""
        rows = torch.arange(len(self.keys), device=self.keys.device)[:, None]
        # under autocast a layer may give fp32 keys, which attention would round anyway
        self.keys[rows, :, self.slots] = key_states.transpose(1, 2).to(self.keys.dtype)
        self.values[rows, :, self.slots] = value_states.transpose(1, 2).to(self.values.dtype)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise RuntimeError("a RowLayer is filled when it is made")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class RowCache(Cache):
    """The cache of a batch of sessions. The last slot of every row is scratch space for padding."""

    def __init__(self, layers: Sequence[RowLayer], capacity: int) -> None:
        super().__init__(layers=list(layers))
        self.capacity = capacity

    @classmethod
    def of(cls, rows: Sequence[Sequence[LayerStates]], capacity: int) -> "RowCache":
        """From the states of each row by layer."""
        layers = [
            RowLayer(*([states[None] for states in pieces] for pieces in zip(*layer, strict=True)), capacity + 1)
            for layer in zip(*rows, strict=True)
        ]
        return cls(layers, capacity)

    @classmethod
    def joined(cls, parts: Sequence[tuple["RowCache", Sequence[int]]]) -> "RowCache":
        """These rows of each of several caches."""
        capacity = max(part.capacity for part, _ in parts)

        def pieces(layer: int, name: str) -> list[Tensor]:
            return [getattr(part.layers[layer], name)[list(rows), :, : part.capacity] for part, rows in parts]

        layers = range(len(parts[0][0].layers))
        return cls([RowLayer(pieces(k, "keys"), pieces(k, "values"), capacity + 1) for k in layers], capacity)

    def place(self, positions: Int[Tensor, "B Q"], real: Bool[Tensor, "B Q"]) -> Bool[Tensor, "B 1 Q K"]:
        """Say where the next tokens go; returns the mask that lets each see all up to itself in its own row."""
        length = int(positions.max()) + 1
        for layer in self.layers:
            layer.slots = torch.where(real, positions, self.capacity)
            layer.length = length
        return torch.arange(length, device=positions.device) <= positions[:, None, :, None]

    def row(self, row: int, length: int) -> list[LayerStates]:
        """The first `length` positions of one row, copied: views would keep every row in memory."""
        return [(layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()) for layer in self.layers]


def _in_room(pieces: Sequence[Tensor], capacity: int) -> Tensor:
    """Pieces of rows below each other, with room for `capacity` tokens, in the precision of attention."""
    first, n_rows = pieces[0], sum(map(len, pieces))
    room = first.new_zeros(n_rows, first.shape[1], capacity, first.shape[3], dtype=attention_dtype(first))
    begin = 0
    for piece in pieces:
        room[begin : begin + len(piece), :, : piece.shape[2]] = piece
        begin += len(piece)
    return room
