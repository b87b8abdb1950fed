"""Rounding with feedback in torch, for any device: what `c/rounding.c` does, to the bit.

Columns come first, so that those of all rows lie together. Every product and sum is rounded by
itself, and sums are taken in the order of columns: that order is the same everywhere.
"""

import torch

from representation.formats import SCALE_DTYPE

TOGETHER = 16
"""Columns that steps are tried on by one operation. A device takes about as long to begin one as to
carry it out.
"""


def round_blocks(
    blocks: torch.Tensor,
    roots: torch.Tensor,
    spreads: torch.Tensor,
    shares: torch.Tensor,
    half: float,
    group: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round columns one after another; the later ones of a block make up for what each loses.

    blocks: (B, b, O), changed   roots: (B, b, b), upper Cholesky factors of inverse moments
    spreads: (B, b), what an error in each column costs   half: of the largest code
    shares: (S,) steps to try, over the largest value of a group
    ->  codes (B, b, O) uint8, scales (B, ceil(b / group), O), values (B, b, O)
    """
    codes = torch.empty_like(blocks, dtype=torch.uint8)
    values, spare = torch.empty_like(blocks), torch.empty_like(blocks)
    scales = []
    for start in range(0, blocks.shape[1], group):
        end = min(start + group, blocks.shape[1])
        step = _best_step(blocks[:, start:end], spreads[:, start:end], shares, half)  # (B, O)
        inverse = step.reciprocal()
        scales.append(step.to(SCALE_DTYPE))
        for column in range(start, end):
            wanted = blocks[:, column]  # (B, O)
            code = _codes(wanted, inverse, half)
            codes[:, column] = code
            value = torch.sub(code, half, out=values[:, column]).mul_(step)
            row = roots[:, column, column:]  # (B, rest)
            lost = (wanted - value).div_(row[:, :1])
            # Not `addcmul_`, which may or may not round the product.
            owed = torch.mul(row[:, 1:, None], lost[:, None], out=spare[:, column + 1 :])
            blocks[:, column + 1 :].sub_(owed)  # (B, rest - 1, O)
    return codes, torch.stack(scales, 1), values


def _best_step(
    group: torch.Tensor, spreads: torch.Tensor, shares: torch.Tensor, half: float
) -> torch.Tensor:
    """The step of each row with the least error, of those tried. (B, w, O), (B, w) -> (B, O)"""
    tiny = torch.finfo(torch.float32).tiny
    largest = group.abs().amax(1).clamp_min(tiny)  # (B, O)
    tried = (largest * shares[:, None, None]).to(SCALE_DTYPE).float().clamp_min_(tiny)  # (S, B, O)
    inverse = tried.reciprocal()
    error = torch.zeros_like(tried)
    for start in range(0, group.shape[1], TOGETHER):
        wanted = group[:, start : start + TOGETHER]  # (B, t, O)
        codes = _codes(wanted, inverse[:, :, None], half)  # (S, B, t, O)
        costs = codes.sub_(half).mul_(tried[:, :, None]).sub_(wanted).square_()
        costs.mul_(spreads[:, start : start + TOGETHER, None])
        for cost in costs.unbind(2):
            error.add_(cost)
    best, step = error[0], tried[0]
    for number in range(1, len(shares)):
        better = error[number] < best
        best = torch.where(better, error[number], best)
        step = torch.where(better, tried[number], step)
    return step


def _codes(wanted: torch.Tensor, inverse: torch.Tensor, half: float) -> torch.Tensor:
    return (wanted * inverse).add_(half).round_().clamp_(0, 2 * half)
