"""Moves integers from the host to the device in one copy. Does not interpret them."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK_BYTES = 1 << 16
ALIGNMENT_BYTES = 16
CODES = {torch.int64: "q", torch.int32: "i"}
"""Of `array`, which reads a list of integers ten times as fast as `torch.tensor`."""
Ints = NDArray[np.int64]
"""Integers of a step on the host, where it works with many at a time."""


class Integers:
    """Collects tensors of integers and moves them together.

    On the CPU a tensor is the one that was put. Elsewhere it is a part of a buffer on the device,
    which is filled by `send`: one asynchronous copy from page-locked memory, for which the host
    does not wait. Buffers are never reused, so a copy that is still running is safe.
    """

    def __init__(self, device: torch.device, *, stages: bool | None = None) -> None:
        """stages: whether to go through buffers; by default, unless the device is the CPU."""
        self._device = device
        self._stages = device.type != "cpu" if stages is None else stages
        self._chunks: list[_Chunk] = []

    def put(self, values: Iterable[int] | Ints, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """-> a tensor of these values on the device, once they are sent; of the shape of an array

        An array must stay as it is.
        """
        if isinstance(values, np.ndarray):
            return self._put(torch.from_numpy(np.ascontiguousarray(values)).to(dtype))
        read = array(CODES[dtype], values)
        return self._put(torch.frombuffer(read, dtype=dtype) if read else torch.empty(0).to(dtype))

    def put_rows(
        self, rows: Sequence[Sequence[int]], dtype: torch.dtype = torch.int64
    ) -> torch.Tensor:
        """The same of rows, equally long, of which there is at least one: (n, m)"""
        read = array(CODES[dtype], chain.from_iterable(rows))
        return self._put(torch.frombuffer(read, dtype=dtype).view(len(rows), -1))

    def _put(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self._stages:
            return tensor
        if not self._chunks or not self._chunks[-1].has_room(tensor.nbytes):
            self._chunks.append(_Chunk(max(CHUNK_BYTES, tensor.nbytes), self._device))
        return self._chunks[-1].put(tensor)

    def send(self) -> None:
        """Move everything that was put since the last time."""
        for chunk in self._chunks:
            chunk.send()
        self._chunks = []


class _Chunk:
    """A buffer on the host and its twin on the device."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._twin = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self._used = 0

    def has_room(self, num_bytes: int) -> bool:
        return self._used + num_bytes <= len(self._host)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        place = slice(self._used, self._used + tensor.nbytes)
        self._host[place].view(tensor.dtype).copy_(tensor.flatten())
        self._used += -(-tensor.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return self._twin[place].view(tensor.dtype).view(tensor.shape)

    def send(self) -> None:
        self._twin[: self._used].copy_(self._host[: self._used], non_blocking=True)
