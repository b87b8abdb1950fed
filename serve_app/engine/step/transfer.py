"""Numbers on their way between host and device, without either waiting for the other."""

from collections.abc import Sequence

import torch


def to_device(
    values: Sequence[int] | Sequence[float] | Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """A tensor of these values. From pinned memory, where a copy does not stop the host."""
    pinned = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=pinned).to(device, non_blocking=True)


class Milestone:
    """A point in what a device was told to do. On the CPU all before it is done when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        """Return when the device has come past it."""
        if self._event is not None:
            self._event.synchronize()


class HostCopies:
    """Copies of tensors of one device for the host, to be waited for when they are needed.

    What is launched afterwards does not delay them.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._made = Milestone(tensors[0].device)

    def wait(self) -> list[torch.Tensor]:
        """The copies, complete."""
        self._made.wait()
        return self._copies
