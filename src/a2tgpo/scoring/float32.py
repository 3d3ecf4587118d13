"""Arithmetic in float32, whatever the precision that weights, cached keys and values are kept in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from a2tgpo.policies.policy import Policy

_LOW = (torch.bfloat16, torch.float16)


def computes_in_float32(policy: Policy) -> bool:
    """Are its weights float32, and nothing casts them on the way?"""
    autocast = torch.is_autocast_enabled(policy.device.type)
    return not autocast and all(weight.dtype == torch.float32 for weight in policy.model.parameters())


@contextmanager
def float32_arithmetic(policy: Policy) -> Iterator[None]:
    """Inside, `policy` computes in float32; a weight of lower precision is cast where it is used, one at a time. On a
    GPU, products are in TF32 where `policy` computes in bf16 outside.

    But for mixtures of experts, which bring what they read to the precision of their weights.
    """
    eager = torch.compiler.set_stance("force_eager")  # compiled code has its precision built in
    products = nullcontext() if computes_in_float32(policy) else tf32()
    with eager, products, torch.autocast(policy.device.type, enabled=False), _InFloat32():
        yield


@contextmanager
def tf32() -> Iterator[None]:
    """Inside, a GPU multiplies float32 matrices in TF32: seven times as fast, exact for operands that are in bf16, and
    others are rounded to 11 bits, where bf16 has 8."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class _InFloat32(TorchFunctionMode):
    """What layers do is done in float32; elsewhere the higher of two precisions wins, in products as elementwise."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        mixed = name in _PRODUCTS and torch.float32 in {x.dtype for x in tree_leaves(args) if isinstance(x, Tensor)}
        if mixed or name in _LAYERS:
            args, kwargs = tree_map(_raised, (args, kwargs or {}))
        result = function(*args, **(kwargs or {}))
        return _raised(result) if name == "embedding" else result


_LAYERS = {"linear", "conv1d", "layer_norm", "rms_norm", "scaled_dot_product_attention"}
_PRODUCTS = {"addmm", "matmul", "__matmul__", "bmm", "baddbmm", "einsum"}


def _raised(operand: Any) -> Any:
    return operand.float() if isinstance(operand, Tensor) and operand.dtype in _LOW else operand
