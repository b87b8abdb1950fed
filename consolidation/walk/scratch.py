"""Tensors that are set aside: in memory up to so many bytes, the others in a temporary file."""

import os
import tempfile
import threading
from collections.abc import Hashable
from types import TracebackType
from typing import Any, Self, cast

import torch


class Scratch:
    """Tensors by key, on the host. Several threads may put and get at a time.

    Up to `held_bytes` stay in memory. What comes later lies in a file without a name, which goes
    when this is closed. A key keeps its place as long as its tensors do not grow.
    """

    def __init__(self, held_bytes: int = 0) -> None:
        self._room = held_bytes
        self._held: dict[Hashable, torch.Tensor] = {}
        self._spans: dict[Hashable, tuple[int, torch.Size, torch.dtype]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object is
        self._end = 0
        self._lock = threading.Lock()

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        """Set a tensor aside, in the place of what the key had."""
        tensor = tensor.detach().cpu().contiguous()
        with self._lock:
            before = self._held.pop(key, None)
            if before is not None:
                self._room += before.nbytes
            if key not in self._spans and tensor.nbytes <= self._room:
                self._room -= tensor.nbytes
                self._held[key] = tensor
                return
            start = self._start(key, tensor.nbytes)
            self._spans[key] = (start, tensor.shape, tensor.dtype)
        self._write(tensor, start)

    def _start(self, key: Hashable, num_bytes: int) -> int:
        """Where the tensor of a key begins in the file."""
        if key in self._spans:
            start, shape, dtype = self._spans[key]
            if num_bytes <= shape.numel() * dtype.itemsize:
                return start
        start, self._end = self._end, self._end + num_bytes
        return start

    def get(self, key: Hashable) -> torch.Tensor:
        """The tensor of a key. Do not write to it."""
        if key in self._held:
            return self._held[key]
        start, shape, dtype = self._spans[key]
        data = bytearray(shape.numel() * dtype.itemsize)
        view, done = memoryview(data), 0
        while done < len(data):
            done += os.preadv(self._file.fileno(), [view[done:]], start + done)
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def _write(self, tensor: torch.Tensor, start: int) -> None:
        view = memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy()))
        done = 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done:], start + done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.clear()
        self._file.close()
