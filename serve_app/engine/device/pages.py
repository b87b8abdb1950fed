"""Memory for tensors that steps read whole: in large pages if a Linux host offers them.

With pages of 4 KiB, a core that reads scattered matrices waits for address translation.
"""

import ctypes
import sys
from collections.abc import Sequence

import torch

PAGE_BYTES = 2 << 20
MADV_HUGEPAGE = 14


def zeros(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Like `torch.zeros`. Asks for large pages before the memory is first touched."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    if device.type == "cpu" and sys.platform == "linux":
        start = -(-tensor.data_ptr() // PAGE_BYTES) * PAGE_BYTES
        end = (tensor.data_ptr() + tensor.nbytes) // PAGE_BYTES * PAGE_BYTES
        if end > start:  # only advice: a host without large pages refuses, which does no harm
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_HUGEPAGE
            )
    return tensor.zero_()
