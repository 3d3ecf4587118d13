"""Settings of the process itself."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def settle(threads: int) -> None:
    """Use `threads` CPU threads, and keep freed memory instead of handing it back to the kernel at every step.

    glibc returns big blocks at once; with small models on the CPU half of the time would go into page faults.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2**28)
