"""A device that is not the CPU, for machines that have no other: what a GPU would refuse, it refuses.

Its tensors hold one of the CPU, on which all is computed; a call that is given tensors of both fails. `register` cannot
be undone, so whoever calls it has a process of its own.
"""

from functools import partial
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "other"
FROM_ONE_TO_THE_OTHER = (aten._to_copy.default, aten.copy_.default)
PLACES_MAY_BE_ON_THE_CPU = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
"""As a GPU allows it for what is indexed by."""
BELOW_PYTHON = ("copy_", "_to_copy", "index.Tensor", "index_put_", "_index_put_impl_", "slice.Tensor", "select.int")
"""What torch calls where it does not look for `__torch_dispatch__`: by `torch.tensor`, and for a list as an index."""
IN_LOW_PRECISION = ("addmm", "baddbmm", "bmm", "conv1d", "linear", "matmul", "mm", "scaled_dot_product_attention")
IN_FLOAT32 = ("cumsum", "exp", "layer_norm", "log", "log_softmax", "logsumexp", "pow", "prod", "reciprocal", "rsqrt")
IN_FLOAT32 += ("softmax", "softplus", "sum")
"""What autocast casts on a GPU; the CPU's leaves what is in float32 here as it is."""
KEPT: list[torch.library.Library] = []


class Elsewhere(torch.Tensor):
    """A tensor of the other device."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=device())
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return compute(op, *args, **(kwargs or {}))

    def tolist(self) -> list:
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"Elsewhere({self.held!r})"


def device() -> torch.device:
    """The other device."""
    return torch.device(NAME, 0)


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `op` on what the tensors hold. Raises RuntimeError where some are here and some there."""
    given, spec = pytree.tree_flatten((args, kwargs))
    there = [value for value in given if isinstance(value, Elsewhere)]
    here = [value for value in given if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dim()]
    if op in PLACES_MAY_BE_ON_THE_CPU:
        here = [value for value in here if value.is_floating_point()]
    if there and here and op not in FROM_ONE_TO_THE_OTHER:
        raise RuntimeError(f"{op}: expected all tensors on one device, found some on {NAME} and some on cpu")
    named = args[0].device if op is aten.copy_.default else kwargs.get("device")
    stays = bool(there) if named is None else torch.device(named).type == NAME
    own = {id(value.held): value for value in there}

    def as_told(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return own.get(id(value)) if id(value) in own else Elsewhere(value) if stays else value

    args, kwargs = pytree.tree_unflatten([_on_cpu(value) for value in given], spec)
    return pytree.tree_map(as_told, op(*args, **kwargs))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Elsewhere):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def cast(op: Any, dtype: torch.dtype | None, *args: Any, **kwargs: Any) -> Any:
    """Call `op` under autocast: with its operands in `dtype`, None for the lower precision."""
    dtype = dtype or torch.get_autocast_dtype(NAME)

    def as_asked(value: Any) -> Any:
        is_cast = isinstance(value, Elsewhere) and value.dtype in (torch.float32, torch.bfloat16)
        return value.to(dtype) if is_cast else value

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        args, kwargs = pytree.tree_map(as_asked, (args, kwargs))
        return op(*args, **kwargs)


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Let torch know the device, for the rest of the process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    every, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(compute, "PrivateUse1")
    for name in BELOW_PYTHON:
        packet, _, overload = name.partition(".")
        some.impl(name, partial(compute, getattr(getattr(aten, packet), overload or "default")), "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in (*IN_LOW_PRECISION, *IN_FLOAT32):
        packet, dtype = getattr(aten, name), torch.float32 if name in IN_FLOAT32 else None
        for overload in (overload for overload in packet.overloads() if "out" not in overload):
            known_as = f"{name}.{overload}".removesuffix(".default")
            some.impl(known_as, partial(cast, getattr(packet, overload), dtype), "AutocastPrivateUse1")
    KEPT.extend([every, some])
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied weights stay tied, as on a GPU


class OtherAccelerator(Accelerator):
    """What Lightning asks of a device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""

    def teardown(self) -> None:
        """Nothing to do."""

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [device()]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME
