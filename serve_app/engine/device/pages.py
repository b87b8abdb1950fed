"""Memory for tensors that steps read whole: in large pages if a Linux host offers them.

With pages of 4 KiB, a core that reads scattered matrices waits for address translation.
"""

import ctypes
import math
import sys
from collections.abc import Sequence

import torch

PAGE_BYTES = 2 << 20
MADV_HUGEPAGE = 14
LARGE_BYTES = PAGE_BYTES
"""Room from here on has addresses of its own; smaller room is copied in no time."""


def zeros(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device, grows: bool = False
) -> torch.Tensor:
    """Like `torch.zeros`. Asks for large pages before the memory is first touched.

    grows: on the CPU, large room has addresses for as many rows again behind it, for `with_rows`.
    Linux gives them memory when they are first written.
    """
    num_rows, *row = shape
    is_large = math.prod(shape) * dtype.itemsize >= LARGE_BYTES
    behind = num_rows if grows and is_large and device.type == "cpu" else 0
    tensor = torch.empty((num_rows + behind, *row), dtype=dtype, device=device)
    if device.type == "cpu" and sys.platform == "linux":
        start = -(-tensor.data_ptr() // PAGE_BYTES) * PAGE_BYTES
        end = (tensor.data_ptr() + tensor.nbytes) // PAGE_BYTES * PAGE_BYTES
        if end > start:  # only advice: a host without large pages refuses, which does no harm
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_HUGEPAGE
            )
    return tensor[:num_rows].zero_()


def with_rows(tensor: torch.Tensor, num_rows: int) -> torch.Tensor | None:
    """The same memory with more rows, which may hold anything; None if it has not so many."""
    size = num_rows * tensor.stride(0) * tensor.itemsize
    if tensor.untyped_storage().nbytes() < size:
        return None
    return tensor.as_strided((num_rows, *tensor.shape[1:]), tensor.stride())
