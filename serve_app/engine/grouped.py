"""One linear layer over rows that belong to different weights. Knows no models, no places."""

import torch
from torch.nn import functional as F

ALIGNMENT_BYTES = 16


def grouped_linear(
    x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, *, transposed: bool = False
) -> torch.Tensor:
    """Each group of rows times its own matrix.

    x: (n, I), rows sorted by group   weight: (G, O, I), or (G, I, O) where `transposed`
    ends: (G,) int32, where each group's rows end; the last is n  ->  (n, O)
    """
    matrices = weight if transposed else weight.transpose(-2, -1)  # (G, I, O)
    if aligned(weight):
        return F.grouped_mm(x, matrices, offs=ends)
    out = x.new_empty((x.shape[0], matrices.shape[-1]))
    start = 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(x[start:end], matrices[group], out=out[start:end])
        start = end
    return out


def aligned(weight: torch.Tensor) -> bool:
    """Whether the grouped kernel takes these weights: on CUDA it wants strides of 16 bytes.

    weight: (G, A, B)
    """
    if weight.device.type != "cuda":
        return True
    sizes = weight.shape[1:]
    return all(size * weight.dtype.itemsize % ALIGNMENT_BYTES == 0 for size in sizes)
