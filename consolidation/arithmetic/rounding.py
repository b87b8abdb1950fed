"""Rounds a matrix to codes of a few bits at the least cost. Packs nothing, chooses no bits.

Columns are rounded one after another, and the later columns of the block make up for what each one
loses (GPTQ: Frantar et al., 2023, section 3). Blocks are independent and run at once, so time and
memory are linear in the number of weights. On x86 CPUs compiled code does it, elsewhere torch, with
the same result to the bit.
"""

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
    block = metric.moments.shape[1]
    fits = block == metric.num_columns or block % fmt.group == 0
    assert fits, f"groups of {fmt.group} do not fill blocks of {block}"
    tried = [_round(matrix, fmt, metric, damping) for damping in DAMPINGS.get(fmt.bits, (DAMPING,))]
    if len(tried) == 1:
        return tried[0]
    return min(tried, key=lambda found: metric.noise_cost(found.values - matrix))


def _round(matrix: torch.Tensor, fmt: Packed, metric: Metric, damping: float) -> Rounded:
    roots = metric.inverse_roots(damping)  # (B, b, b)
    spreads = roots.diagonal(dim1=1, dim2=2).square().reciprocal()  # (B, b)
    spreads.view(-1)[metric.num_columns :] = 0.0  # No scale is chosen by what fills a block.
    half = (2**fmt.bits - 1) / 2
    shares = torch.tensor([share / half for share in CLIPPINGS], device=matrix.device)
    code = library() if matrix.device.type == "cpu" else None
    if code is not None:
        return Rounded(*round_compiled(code, matrix, roots, spreads, shares, half, fmt.group))
    blocks = in_blocks(matrix, metric.num_columns).transpose(1, 2).contiguous()  # (B, b, O)
    codes, scales, values = round_blocks(blocks, roots, spreads, shares, half, fmt.group)
    num_groups = -(-metric.num_columns // fmt.group)
    return Rounded(
        codes=from_blocks(codes.transpose(1, 2), metric.num_columns).contiguous(),
        scales=scales.flatten(0, 1)[:num_groups].T.contiguous(),
        values=from_blocks(values.transpose(1, 2), metric.num_columns).contiguous(),
    )
