"""One linear layer over rows that belong to different weights. Knows no models, no places."""

import torch
from torch.nn import functional as F

ALIGNMENT_BYTES = 16


def grouped_linear(
    x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, *, transposed: bool = False
) -> torch.Tensor:
    """Each group of rows times its own matrix.

    x: (n, I), rows sorted by group   weight: (G, O, I), or (G, I, O) where `transposed`
    ends: (G,) int32, where each group's rows end  ->  (n, O); whatever was there behind the last
    """
    matrices = weight if transposed else weight.transpose(-2, -1)  # (G, I, O)
    if aligned(weight) and aligned(x):
        return F.grouped_mm(x, matrices, offs=ends)
    out = x.new_empty((x.shape[0], matrices.shape[-1]))
    start = 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(x[start:end], matrices[group], out=out[start:end])
        start = end
    return out


def aligned(matrices: torch.Tensor) -> bool:
    """Whether the grouped kernel takes these: it wants strides of 16 bytes.

    matrices: (…, A, B), contiguous in one of the two
    """
    along, across = sorted(matrices.stride()[-2:])
    return along == 1 and across * matrices.dtype.itemsize % ALIGNMENT_BYTES == 0
