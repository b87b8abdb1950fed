"""How fast this device moves and multiplies, measured. The floors of steps stand on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

CPU_COPY_BYTES = 1 << 28
"""Of each of two tensors: several times what caches hold."""
CUDA_COPY_BYTES = 1 << 30
CPU_SIDE, CUDA_SIDE = 1024, 8192
"""Of the square matrices that are multiplied."""
LEAST_S, LEAST_TIMES = 0.5, 5
"""A rate is the best of so many runs at least, for so long at least."""


@dataclass(frozen=True, slots=True)
class Rates:
    """copy_bytes_s: bytes read plus bytes written, each second, by a large copy.

    matrix_ops_s: operations each second of a large product, by dtype; two for each
    multiplication and addition.
    """

    copy_bytes_s: float
    matrix_ops_s: dict[str, float]

    @property
    def best_matrix_ops_s(self) -> float:
        """Of the dtypes that the engine may compute in: it may widen where that is faster."""
        return max(self.matrix_ops_s.values())


def measure_rates(device: str, dtype: torch.dtype) -> Rates:
    """What the device reaches now. dtype: the engine's; float32 is measured beside it."""
    chosen = torch.device(device)
    dtypes = dict.fromkeys((dtype, torch.float32))
    return Rates(
        copy_bytes_s=_copy_rate(chosen),
        matrix_ops_s={
            str(kind).removeprefix("torch."): _matrix_rate(chosen, kind) for kind in dtypes
        },
    )


def host_copy_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes each second that one copy from the host moves; on the CPU by one thread's memory."""
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
    """Of one run, the first left out."""
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
    """Until what the device was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
