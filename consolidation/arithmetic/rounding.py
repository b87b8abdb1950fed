"""Rounds a matrix to codes of a few bits at the least cost. Packs nothing, chooses no bits.

Columns are rounded one after another, and the later columns of the block make up for what each one
loses (GPTQ: Frantar et al., 2023, section 3). Blocks are independent and run at once, so time and
memory are linear in the number of weights. On x86 CPUs compiled code does it, elsewhere torch, with
the same result to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from consolidation.arithmetic.compiled_rounding import library, round_compiled
from consolidation.arithmetic.feedback import round_blocks
from consolidation.arithmetic.metric import DAMPING, Metric, from_blocks, in_blocks
from representation.formats import Packed

CLIPPINGS = tuple(1 - step / 20 for step in range(13))
"""Largest levels to try, as shares of a group's largest value."""
DAMPINGS = {1: (DAMPING, 0.1, 1.0), 2: (DAMPING, 0.1)}
"""With very few levels feedback can do harm: try several strengths and keep the best."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """codes: (O, I) uint8   scales: (O, ceil(I / group)) bfloat16   values: (O, I) float32"""

    codes: torch.Tensor
    scales: torch.Tensor
    values: torch.Tensor


def round_matrix(matrix: torch.Tensor, fmt: Packed, metric: Metric) -> Rounded:
    """Round a matrix (O, I), float32, to the nearest codes of a packed format."""
    return round_matrices([matrix], fmt, [metric])[0]


def round_matrices(
    matrices: Sequence[torch.Tensor], fmt: Packed, metrics: Sequence[Metric]
) -> list[Rounded]:
    """Round matrices of one shape, (O, I) float32, each by its own metric.

    Each comes out as it would alone. On a device, one operation is for all of them.
    """
    block, num_columns = metrics[0].moments.shape[1], metrics[0].num_columns
    fits = block == num_columns or block % fmt.group == 0
    assert fits, f"groups of {fmt.group} do not fill blocks of {block}"
    tried = [
        _round(matrices, fmt, metrics, damping) for damping in DAMPINGS.get(fmt.bits, (DAMPING,))
    ]
    if len(tried) == 1:
        return tried[0]
    return [
        min(found, key=lambda one: metric.noise_cost(one.values - matrix))
        for matrix, metric, *found in zip(matrices, metrics, *tried, strict=True)
    ]


def _round(
    matrices: Sequence[torch.Tensor], fmt: Packed, metrics: Sequence[Metric], damping: float
) -> list[Rounded]:
    num_columns = metrics[0].num_columns
    roots = [metric.inverse_roots(damping) for metric in metrics]  # (B, b, b) each
    spreads = [_spreads(own, num_columns) for own in roots]  # (B, b) each
    half = (2**fmt.bits - 1) / 2
    shares = torch.tensor([share / half for share in CLIPPINGS], device=matrices[0].device)
    code = library() if matrices[0].device.type == "cpu" else None
    if code is not None:
        return [
            Rounded(*round_compiled(code, matrix, root, spread, shares, half, fmt.group))
            for matrix, root, spread in zip(matrices, roots, spreads, strict=True)
        ]
    blocks = torch.cat([in_blocks(matrix, num_columns).transpose(1, 2) for matrix in matrices])
    found = round_blocks(
        blocks.contiguous(), torch.cat(roots), torch.cat(spreads), shares, half, fmt.group
    )
    codes, scales, values = (one.chunk(len(matrices)) for one in found)
    return [
        _upright(*own, num_columns=num_columns, group=fmt.group)
        for own in zip(codes, scales, values, strict=True)
    ]


def _spreads(roots: torch.Tensor, num_columns: int) -> torch.Tensor:
    """What an error in each column costs. (B, b, b) -> (B, b)"""
    found: torch.Tensor = roots.diagonal(dim1=1, dim2=2).square().reciprocal()
    found.view(-1)[num_columns:] = 0.0  # No scale is chosen by what fills a block.
    return found


def _upright(
    codes: torch.Tensor, scales: torch.Tensor, values: torch.Tensor, num_columns: int, group: int
) -> Rounded:
    """What `round_blocks` gives for the blocks of one matrix, rows first."""
    num_groups = -(-num_columns // group)
    return Rounded(
        codes=from_blocks(codes.transpose(1, 2), num_columns).contiguous(),
        scales=scales.flatten(0, 1)[:num_groups].T.contiguous(),
        values=from_blocks(values.transpose(1, 2), num_columns).contiguous(),
    )
