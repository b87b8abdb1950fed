"""Measures how fast this device copies and multiplies. The floors of steps build on this."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

CPU_COPY_BYTES = 1 << 28
"""Bytes of each of two tensors: several times what caches hold."""
CUDA_COPY_BYTES = 1 << 30
CPU_SIDE, CUDA_SIDE = 1024, 8192
"""Sizes of the square matrices that are multiplied."""
LEAST_S, LEAST_TIMES = 0.5, 5
"""A rate is the best of at least this many runs, over at least this many seconds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """copy_bytes_s: bytes read plus bytes written per second by a large copy.

    matrix_ops_s: operations per second of a large product, by dtype; two for each multiplication
    and addition.
    """

    copy_bytes_s: float
    matrix_ops_s: dict[str, float]

    @property
    def best_matrix_ops_s(self) -> float:
        """The best rate of all dtypes: the engine may widen where that is faster."""
        return max(self.matrix_ops_s.values())


def measure_rates(device: str, dtype: torch.dtype) -> Rates:
    """What the device reaches now. dtype: the engine's; float32 is measured too."""
    chosen = torch.device(device)
    dtypes = dict.fromkeys((dtype, torch.float32))
    return Rates(
        copy_bytes_s=_copy_rate(chosen),
        matrix_ops_s={
            str(kind).removeprefix("torch."): _matrix_rate(chosen, kind) for kind in dtypes
        },
    )


def host_copy_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes per second of one copy from the host; on the CPU, of a copy by one thread."""
    source = torch.ones(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(source, device=device)
    if device.type == "cuda":
        return num_bytes / _best_seconds(lambda: target.copy_(source), device)
    there, here = target.numpy(), source.numpy()
    return num_bytes / _best_seconds(lambda: np.copyto(there, here), device)


def _copy_rate(device: torch.device) -> float:
    size = CPU_COPY_BYTES if device.type == "cpu" else CUDA_COPY_BYTES
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best_seconds(lambda: target.copy_(source), device)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = CPU_SIDE if device.type == "cpu" else CUDA_SIDE
    left, right = (torch.ones((side, side), dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / _best_seconds(lambda: torch.nn.functional.linear(left, right), device)


def _best_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run, leaving out the first."""
    run()
    _wait(device)
    best, spent, times = float("inf"), 0.0, 0
    while spent < LEAST_S or times < LEAST_TIMES:
        began = time.perf_counter()
        run()
        _wait(device)
        seconds = time.perf_counter() - began
        best, spent, times = min(best, seconds), spent + seconds, times + 1
    return best


def _wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
