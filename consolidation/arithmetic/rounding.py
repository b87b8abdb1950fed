"""Rounds a matrix to codes of a few bits at the least cost. Packs nothing, chooses no bits.

Columns are rounded one after another, and the later columns of the block make up for what each one
loses (GPTQ: Frantar et al., 2023, section 3). Blocks are independent and run at once, so time and
memory are linear in the number of weights.
"""

from dataclasses import dataclass

import torch

from consolidation.arithmetic.metric import DAMPING, Metric, from_blocks, in_blocks
from representation.formats import SCALE_DTYPE, Packed

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
    tried = [_round(matrix, fmt, metric, damping) for damping in DAMPINGS.get(fmt.bits, (DAMPING,))]
    if len(tried) == 1:
        return tried[0]
    return min(tried, key=lambda found: metric.noise_cost(found.values - matrix))


def _round(matrix: torch.Tensor, fmt: Packed, metric: Metric, damping: float) -> Rounded:
    left = in_blocks(matrix, metric.num_columns).clone()  # (B, O, b)
    roots = metric.inverse_roots(damping)  # (B, b, b)
    spreads = roots.diagonal(dim1=1, dim2=2).square().reciprocal()  # (B, b)
    spreads.view(-1)[metric.num_columns :] = 0.0  # No scale is chosen by what fills a block.
    codes = torch.empty_like(left, dtype=torch.uint8)
    values = torch.empty_like(left)
    scales = []
    size = left.shape[2]
    half = (2**fmt.bits - 1) / 2
    for start in range(0, size, fmt.group):
        end = min(start + fmt.group, size)
        scale = _scales(left[:, :, start:end], spreads[:, start:end], half)  # (B, O, 1)
        scales.append(scale)
        for column in range(start, end):
            wanted = left[:, :, column : column + 1]
            code = (wanted / scale + half).round_().clamp_(0, 2 * half)
            value = (code - half) * scale
            codes[:, :, column : column + 1] = code.to(torch.uint8)
            values[:, :, column : column + 1] = value
            row = roots[:, column : column + 1, column:]  # (B, 1, rest)
            lost = (wanted - value) / row[:, :, :1]
            left[:, :, column + 1 :].baddbmm_(lost, row[:, :, 1:], alpha=-1)
    num_groups = -(-metric.num_columns // fmt.group)
    by_group = torch.cat(scales, 2).transpose(0, 1).flatten(1)[:, :num_groups]
    return Rounded(
        codes=from_blocks(codes, metric.num_columns).contiguous(),
        scales=by_group.to(SCALE_DTYPE),
        values=from_blocks(values, metric.num_columns).contiguous(),
    )


def _scales(group: torch.Tensor, spreads: torch.Tensor, half: float) -> torch.Tensor:
    """The best scale of each row of a group, as it will be stored. (B, O, w) -> (B, O, 1)

    spreads: (B, w), what an error in each column costs.
    """
    largest = group.abs().amax(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    weights = spreads.unsqueeze(2)  # (B, w, 1)
    best = scale = None
    for clipping in CLIPPINGS:
        tried = (largest * (clipping / half)).to(SCALE_DTYPE).float()
        tried.clamp_min_(torch.finfo(SCALE_DTYPE).tiny)
        values = (group / tried + half).round_().clamp_(0, 2 * half).sub_(half).mul_(tried)
        error = values.sub_(group).square_() @ weights  # (B, O, 1)
        if best is None or scale is None:
            best, scale = error, tried
        else:
            better = error < best
            best, scale = torch.where(better, error, best), torch.where(better, tried, scale)
    assert scale is not None
    return scale
