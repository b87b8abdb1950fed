"""Scan: the digest and norm of every expert, and that every value can be computed with.

One task per (model, layer); one expert, or one part of a backbone, in memory. Compares nothing.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoints.checkpoint import BackboneSource, ExpertsSource
from consolidation.errors import Refused
from consolidation.release.tensors import encode_tensors

LARGEST = 1e12
"""Where something is approximated: squares of larger values, summed, are not numbers in float32."""
PART = 1 << 22
"""Values that are looked at together."""


@dataclass(frozen=True, slots=True)
class ScanTask:
    """What to scan of a model. Values must be finite, and if `is_lossy` not beyond `LARGEST`."""

    model: str
    source: ExpertsSource | BackboneSource
    is_lossy: bool = False


@dataclass(frozen=True, slots=True)
class LayerScan:
    """Experts of one model at one layer, by index.

    `digests` are those of the blobs that would hold them unmerged, and `unadapted` those of what
    they are without an adapter, None where that is the same; `square_norms` are sums of squares of
    all weights and biases.
    """

    digests: tuple[str, ...]
    square_norms: tuple[float, ...]
    unadapted: tuple[str | None, ...]


def scan(task: ScanTask) -> dict[str, Any]:
    """The fields of a `LayerScan`; of a backbone's part its `digest`.

    Raises `Refused` if the checkpoint cannot be read, and for a value that cannot be used, with
    the tensor and the position.
    """
    source = task.source
    if isinstance(source, BackboneSource):
        part = source.read()
        for name, tensor in part.items():
            _checked(task, name, tensor)
        return {"digest": _digest(part)}
    digests, norms = [], []
    unadapted: list[str | None] = []
    for index in range(source.num_experts):
        tensors = source.read(index)
        squares = [
            _checked(task, f"{source.module}.{name}", tensor, (index,))
            for name, tensor in tensors.items()
        ]
        digests.append(_digest(tensors))
        is_adapted = source.is_adapted(index)
        unadapted.append(_digest(source.unadapted.read(index)) if is_adapted else None)
        norms.append(math.fsum(squares))
    return {"digests": digests, "square_norms": norms, "unadapted": unadapted}


def layer_scan(result: dict[str, Any]) -> LayerScan:
    """A task's result as a value."""
    return LayerScan(
        tuple(result["digests"]), tuple(result["square_norms"]), tuple(result["unadapted"])
    )


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(encode_tensors(tensors)).hexdigest()


def _checked(
    task: ScanTask, name: str, tensor: torch.Tensor, before: tuple[int, ...] = ()
) -> float:
    """The sum of squares of a tensor whose values can be used; raises `Refused` for any other.

    before: the indices of the tensor in the one that `name` is.
    """
    squares = _square_norm(tensor)
    if tensor.is_floating_point():
        limit = LARGEST if task.is_lossy else torch.finfo(tensor.dtype).max
        # No value is larger than the root of this sum, so most tensors are gone through once.
        if not squares <= min(limit, LARGEST) ** 2:
            _check(task, name, tensor, before, limit)
    return squares


def _check(
    task: ScanTask, name: str, tensor: torch.Tensor, before: tuple[int, ...], limit: float
) -> None:
    done = 0
    for part in _parts(tensor):
        low, high = (float(end) for end in torch.aminmax(part))
        if not (-limit <= low and high <= limit):
            found = int((~(part.double().abs() <= limit)).nonzero()[0])
            place = torch.unravel_index(torch.tensor(done + found), tensor.shape)
            at, value = [*before, *map(int, place)], float(part[found])
            why = "is not a finite number"
            if math.isfinite(value):
                why = f"is beyond {LARGEST:g}: nothing beside it can be approximated"
            raise Refused(f"model {task.model!r}: {name} holds {value:g} at {at}, which {why}")
        done += len(part)


def _square_norm(tensor: torch.Tensor) -> float:
    """Sum of squares in float64, computed a part at a time to bound memory."""
    return math.fsum(float(part.double().square().sum()) for part in _parts(tensor))


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    flat = tensor.reshape(-1)
    return iter(torch.split(flat, PART)) if len(flat) else iter(())
