"""Copies tensors to the device that computes, and keeps its sums in one order. Chooses none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

CPU = torch.device("cpu")
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; itself, where it is there already.

    For CUDA it goes through pinned memory, so that the host reads on while it is copied.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def same_sums(device: torch.device) -> Iterator[None]:
    """The same input gives the same bits each time, inside. On the CPU it does so anyway.

    One kind of card with the same libraries is meant: others add in other orders.
    """
    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        # Other forms of attention add gradients in any order.
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
