"""Settings of the process itself."""

import ctypes
import sys

import torch

from a2tgpo.system.settings import require

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def configure_process(threads: int | str, keep_memory: bool = False) -> None:
    """Use `threads` CPU threads, or `auto`, what torch takes by itself: all cores, or OMP_NUM_THREADS.

    `keep_memory` keeps freed memory instead of handing it back at every step.
    glibc returns big blocks at once; with small models on the CPU half of the time would go into page faults. A large
    model on a GPU would only leave its host copies behind.
    Attention on a GPU goes without cuDNN, which plans anew for every size: sampling has another one at every token.
    """
    if threads != "auto":
        torch.set_num_threads(threads)
    torch.backends.cuda.enable_cudnn_sdp(False)
    if keep_memory and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2**28)


def device_of(accelerator: str) -> str:
    """The type of the device that `trainer.accelerator` stands for: cpu, cuda or mps.

    Raises ValueError where there is none of the kind.
    """
    gpus = [name for name, backend in (("cuda", torch.cuda), ("mps", torch.mps)) if backend.is_available()]
    kinds = {"cpu": ["cpu"], "gpu": gpus, "auto": [*gpus, "cpu"]}
    found = kinds.get(accelerator, [name for name in gpus if name == accelerator])
    if not found:
        raise ValueError(
            f"trainer.accelerator={accelerator}: no GPU is visible; expected one, or trainer=default for the CPU"
        )
    return found[0]


def precision_context(device: str | torch.device, precision: str) -> torch.autocast:
    """What training with this `precision` computes in; each weight is cast once for as long as the context lasts.

    Raises ValueError for any precision that training does not know.
    """
    require("precision", precision)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16-mixed")
