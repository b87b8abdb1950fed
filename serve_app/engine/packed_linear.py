"""One linear layer over rows that belong to different packed matrices. Never unpacks them all."""

from collections.abc import Mapping

import torch

from representation.formats import Format
from representation.packing import dequantise
from serve_app.engine.grouped import grouped_linear

BLOCK_VALUES = 1 << 19
"""Most values that are unpacked at a time on the CPU: 2 MiB in float32."""
WORKSPACE_BYTES = 12 * BLOCK_VALUES
"""Most that unpacking a block takes: the values, those of a second plane, and indices."""


def packed_linear(
    x: torch.Tensor,
    planes: Mapping[int, torch.Tensor],
    scales: torch.Tensor,
    fmt: Format,
    rows: torch.Tensor,
    ends: torch.Tensor,
) -> torch.Tensor:
    """Each group of rows times its own packed matrix.

    x: (m, I), sorted by group   planes: width -> (P, O, ceil(I * width / 8)) uint8
    scales: (P, O, G)   rows: (m,), group of each row   ends: (P,) int32  ->  (m, O)
    On CUDA the bits are read by a kernel, and rows behind the last group are zero. On the CPU the
    matrices in use are unpacked a block at a time, in float32.
    """
    if x.device.type == "cuda":
        from serve_app.engine.packed_kernel import packed_linear_kernel

        return packed_linear_kernel(x, planes, scales, fmt, ends)
    num_columns, num_outputs = x.shape[1], scales.shape[1]
    used, counts = torch.unique_consecutive(rows, return_counts=True)
    used_ends = counts.cumsum(0).to(torch.int32)
    bounds = [0, *used_ends.tolist()]
    wide = x.float()
    out = wide.new_empty((x.shape[0], num_outputs))
    num_matrices = max(1, BLOCK_VALUES // (num_outputs * num_columns))
    num_lines = min(num_outputs, max(1, BLOCK_VALUES // num_columns))
    for first in range(0, len(used), num_matrices):
        group = used[first : first + num_matrices]
        start, end = bounds[first], bounds[min(first + num_matrices, len(used))]
        offsets = used_ends[first : first + num_matrices] - start
        for top in range(0, num_outputs, num_lines):
            lines = slice(top, top + num_lines)
            values = dequantise(
                {width: plane[group, lines] for width, plane in planes.items()},
                scales[group, lines],
                fmt,
                num_columns,
            )  # (matrices, lines, I)
            out[start:end, lines] = grouped_linear(wide[start:end], values, offsets)
    return out.to(x.dtype)
