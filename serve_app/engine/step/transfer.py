"""Copies between host and device for which neither waits."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def to_device(
    values: Sequence[int] | Sequence[float] | Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """A tensor of these values, copied from pinned memory if that lets the host go on."""
    pinned = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=pinned).to(device, non_blocking=True)


def array_to_device(array: NDArray[np.int32], device: torch.device) -> torch.Tensor:
    """The same. On the CPU it is the array's own memory."""
    made = torch.from_numpy(array)
    if device.type == "cuda":
        made = made.pin_memory()
    return made.to(device, non_blocking=True)


class Milestone:
    """A point in a device's queue of work. On the CPU, everything before it is already done."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Return when the device has reached it."""
        if self._event is not None:
            self._event.synchronize()


class HostCopies:
    """Copies of one device's tensors for the host. Whoever needs them waits.

    Work that is launched later does not delay them.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._made = Milestone(tensors[0].device)

    def wait(self) -> list[torch.Tensor]:
        """The copies, complete."""
        self._made.wait()
        return self._copies
