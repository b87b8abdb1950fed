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


class HostCopies:
    """Copies of tensors for the host, to be waited for when they are needed.

    What is launched afterwards on the tensors' device does not delay them.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._arrived = torch.cuda.Event() if any(t.is_cuda for t in tensors) else None
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> list[torch.Tensor]:
        """The copies, complete."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copies
