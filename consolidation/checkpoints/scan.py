"""Scan: the digest and norm of every expert, and digests of backbones.

One task per (model, layer), one expert in memory; one task per part of a backbone.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoints.checkpoint import BackboneSource, ExpertsSource
from consolidation.release.tensors import encode_tensors


@dataclass(frozen=True, slots=True)
class LayerScan:
    """Experts of one model at one layer, by index.

    `digests` are those of the blobs that would hold them unmerged; `square_norms` are sums of
    squares of all weights and biases, None where not finite.
    """

    digests: tuple[str, ...]
    square_norms: tuple[float | None, ...]


def scan_layer(source: ExpertsSource) -> dict[str, Any]:
    """The fields of a `LayerScan`. Raises `Refused` when the checkpoint cannot be read."""
    digests, norms = [], []
    for index in range(source.num_experts):
        tensors = source.read(index)
        digests.append(hashlib.sha256(encode_tensors(tensors)).hexdigest())
        norm = math.fsum(_square_norm(tensor) for tensor in tensors.values())
        norms.append(norm if math.isfinite(norm) else None)
    return {"digests": digests, "square_norms": norms}


def scan_backbone(source: BackboneSource) -> str:
    """A digest of one part of a backbone. Raises `Refused` when the checkpoint cannot be read."""
    return hashlib.sha256(encode_tensors(source.read())).hexdigest()


def layer_scan(result: dict[str, Any]) -> LayerScan:
    """A task's result as a value."""
    return LayerScan(tuple(result["digests"]), tuple(result["square_norms"]))


def _square_norm(tensor: torch.Tensor) -> float:
    """Sum of squares in float64, computed a part at a time to bound memory."""
    parts = torch.split(tensor.reshape(-1), 1 << 22)
    return math.fsum(float(part.double().square().sum()) for part in parts)
