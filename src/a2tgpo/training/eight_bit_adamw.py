"""AdamW whose moments take a byte each instead of four."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._pytree import tree_map_only
from torchao.optim import AdamW8bit
from torchao.optim.subclass_8bit import OptimState8bit

from a2tgpo.policies.sharding import local, shard_like

MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))
"""Their names, and whether they may be negative."""


class EightBitAdamW(AdamW8bit):
    """AdamW with moments as 8-bit codes, in blocks of 256 that have a scale each (Dettmers et al., arXiv 2110.02861).

    Those of weights that are kept `whole` stay float32. It goes on from its own state, and from one of AdamW.
    """

    def __init__(self, params: Iterable[Parameter], lr: float, betas: Sequence[float], weight_decay: float) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay)
        self._whole: set[Parameter] = set()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose learning rate stays a float, as with other optimizers."""
        rate = param_group.get("lr", self.defaults["lr"])
        super().add_param_group(param_group)
        self.param_groups[-1]["lr"] = rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step, compiled for each shape of weights at the first."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = torch.tensor(group["lr"])  # compiled in, a float would be compiled anew when it changes
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return loss

    def keep_whole(self, weights: Iterable[Parameter]) -> None:
        """Do not code the moments of these weights."""
        self._whole |= set(weights)

    def state_dict(self) -> dict[str, Any]:
        """The state, with codes and scales as plain tensors: reading a checkpoint takes no torchao."""
        state = super().state_dict()
        return state | {"state": tree_map_only(OptimState8bit, _codes_and_scales, state["state"])}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take codes and scales as they are, where this process has all of a weight, or code the moments anew."""
        super().load_state_dict(state_dict)
        for weight, moments in self.state.items():
            for name, signed in MOMENTS:
                buffer = self._new_buffer(weight, signed)
                _fill(local(buffer), moments[name], weight, signed)
                moments[name] = buffer

    def _new_buffer(self, p: Parameter, signed: bool) -> Tensor:
        return torch.zeros_like(p) if p in self._whole else super()._new_buffer(p, signed)


def _codes_and_scales(moment: OptimState8bit) -> dict[str, Tensor]:
    return {"codes": moment.codes, "scale": moment.scale}


def _fill(buffer: Tensor, moment: Tensor | Mapping[str, Tensor], weight: Parameter, signed: bool) -> None:
    """Put a moment of all of `weight`, or this process's part of one, into `buffer`, which is for this process's."""
    if isinstance(moment, Tensor):
        buffer.copy_(local(moment))
        return
    codes, scale = moment["codes"], moment["scale"]
    coded = OptimState8bit.zeros(codes.shape, signed, codes.numel() // scale.numel(), codes.device, weight.dtype)
    coded.codes.copy_(codes)
    coded.scale.copy_(scale)
    whole_here = isinstance(buffer, OptimState8bit) and buffer.shape == coded.shape
    buffer.copy_(coded if whole_here else local(shard_like(coded.dequantize(), weight)))
