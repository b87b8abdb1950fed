"""The low-rank matrix that is nearest to a given one. Chooses no rank.

Distance is measured by a `Metric`: both sides are scaled by its roots first. The decomposition is
randomised, with two power iterations (Halko, Martinsson & Tropp, 2011, algorithm 4.4), so its time
is linear in the number of weights. The same input always gives the same factors.
"""

import torch

from consolidation.arithmetic.metric import Metric, from_blocks, in_blocks

EXTRA = 8
POWER_ITERATIONS = 2
FLOOR = 1e-6
"""The least gain of a row over the mean gain, so that nothing is divided by zero."""


def decompose(matrix: torch.Tensor, metric: Metric, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix as the sum of as many factors, in falling importance; the shape limits the rank.

    matrix: (O, I) float32 -> left: (O, r), right: (r, I)
    """
    rank = min(rank, *matrix.shape)
    gain = row_roots(metric)  # (O,)
    roots = metric.roots()  # (B, b, b)
    scaled = in_blocks(matrix * gain[:, None], metric.num_columns) @ roots
    scaled = scaled.transpose(0, 1).flatten(1)  # (O, B * b)
    left, values, right = _svd(scaled, rank + EXTRA)
    half = values[:rank].sqrt()
    blocks = (right[:rank] * half[:, None]).unflatten(1, (roots.shape[0], -1)).transpose(0, 1)
    unscaled = torch.linalg.solve_triangular(roots, blocks, upper=True, left=False)
    left = left[:, :rank] * half / gain[:, None]
    right = from_blocks(unscaled, metric.num_columns).contiguous()
    return left, right


def row_roots(metric: Metric) -> torch.Tensor:
    """Square roots of a metric's gains, of which none is zero. -> (O,)"""
    floor = FLOOR * metric.gain.mean() + torch.finfo(torch.float32).tiny
    return (metric.gain + floor).sqrt()


def _svd(matrix: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first singular vectors and values, the last few less exact.

    (O, I) -> (O, w), (w,), (w, I)
    """
    width = min(width, *matrix.shape)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(matrix.shape[1], width, generator=generator)
    basis = matrix @ directions.to(matrix.device)
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(basis).Q
        basis = matrix @ torch.linalg.qr(matrix.T @ basis).Q
    basis = torch.linalg.qr(basis).Q
    inside = basis.T @ matrix
    small, values, right = torch.linalg.svd(inside, full_matrices=False)
    return basis @ small, values, right
