"""One linear layer over rows that belong to different packed matrices. Never unpacks them all."""

from collections.abc import Mapping, Sequence

import torch

from representation.formats import Format
from representation.packing import dequantise
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.matmul import Multiplier

BLOCK_VALUES = 1 << 19
"""Most values that are unpacked at a time on the CPU: 2 MiB in float32."""
WORKSPACE_BYTES = 12 * BLOCK_VALUES
"""Most that unpacking a block takes: the values, those of a second plane, and indices."""


def packed_linear(
    multiplier: Multiplier,
    x: torch.Tensor,
    planes: Mapping[int, torch.Tensor],
    scales: torch.Tensor,
    fmt: Format,
    groups: Groups,
) -> torch.Tensor:
    """Each group of rows times its own packed matrix.

    x: (m, I), sorted by group   planes: width -> (P, O, ceil(I * width / 8)) uint8
    scales: (P, O, G)  ->  (m, O)
    On CUDA the bits are read by a kernel, and rows behind the last group are zero. On the CPU the
    matrices in use are unpacked a block at a time, in float32.
    """
    if groups.runs is None:
        from serve_app.engine.experts.packed_kernel import packed_linear_kernel

        assert groups.ends is not None
        return packed_linear_kernel(x, planes, scales, fmt, groups.ends)
    with multiplier.all_cores():
        return _unpacked_linear(multiplier, x, planes, scales, fmt, groups.runs)


def _unpacked_linear(
    multiplier: Multiplier,
    x: torch.Tensor,
    planes: Mapping[int, torch.Tensor],
    scales: torch.Tensor,
    fmt: Format,
    all_runs: Sequence[tuple[int, int, int]],
) -> torch.Tensor:
    """On the CPU; as `packed_linear`."""
    num_columns, num_outputs = x.shape[1], scales.shape[1]
    wide = x.float()
    out = wide.new_empty((x.shape[0], num_outputs))
    num_matrices = max(1, BLOCK_VALUES // (num_outputs * num_columns))
    num_lines = min(num_outputs, max(1, BLOCK_VALUES // num_columns))
    for first in range(0, len(all_runs), num_matrices):
        runs = all_runs[first : first + num_matrices]
        used = torch.tensor([matrix for matrix, _, _ in runs])
        start, end = runs[0][1], runs[-1][2]
        block = Groups.counted(end - start for _, start, end in runs)
        for top in range(0, num_outputs, num_lines):
            lines = slice(top, top + num_lines)
            values = dequantise(
                {width: plane[used, lines] for width, plane in planes.items()},
                scales[used, lines],
                fmt,
                num_columns,
            )  # (matrices, lines, I)
            out[start:end, lines] = multiplier.grouped(wide[start:end], values, block)
    return out.to(x.dtype)
