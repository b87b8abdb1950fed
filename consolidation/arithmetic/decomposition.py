"""The low-rank matrix that is nearest to a given one. Chooses no rank.

Distance is measured by a `Metric`: both sides are scaled by its roots first. The decomposition is
randomised, with two power iterations (Halko, Martinsson & Tropp, 2011, algorithm 4.4), so its time
is linear in the number of weights. The same input always gives the same factors.
"""

from dataclasses import dataclass

import torch

from consolidation.arithmetic.metric import Metric, Samples, from_blocks, in_blocks

EXTRA = 8
POWER_ITERATIONS = 2
FLOOR = 1e-6
"""The least gain of a row over the mean gain, so that nothing is divided by zero."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """A matrix D as factors of falling importance.

    left: (O, r)   right: (r, I)   tails: cost of what the first 0, 1, … r factors leave
    """

    left: torch.Tensor
    right: torch.Tensor
    tails: tuple[float, ...]

    def product(self, rank: int) -> torch.Tensor:
        """The nearest matrix of that rank. -> (O, I)"""
        return self.left[:, :rank] @ self.right[:rank]


def decompose(matrix: torch.Tensor, metric: Metric, max_rank: int) -> Decomposition:
    """The first factors of a matrix (O, I), float32; the shape limits the rank."""
    max_rank = min(max_rank, *matrix.shape)
    gain = row_roots(metric)  # (O,)
    roots = metric.roots()  # (B, b, b)
    scaled = in_blocks(matrix * gain[:, None], metric.num_columns) @ roots
    scaled = scaled.transpose(0, 1).flatten(1)  # (O, B * b)
    left, values, right, rest = _svd(scaled, max_rank + EXTRA)
    # Added up from the end: differences to the whole would drown a rank that is exact.
    tails = rest + torch.cat([values, values.new_zeros(1)]).double().square().flip(0).cumsum(0)
    tails = tails.flip(0)[: max_rank + 1]
    half = values[:max_rank].sqrt()
    blocks = (right[:max_rank] * half[:, None]).unflatten(1, (roots.shape[0], -1)).transpose(0, 1)
    unscaled = torch.linalg.solve_triangular(roots, blocks, upper=True, left=False)
    left = left[:, :max_rank] * half / gain[:, None]
    right = from_blocks(unscaled, metric.num_columns).contiguous()
    if metric.samples is not None:
        tails = metric.untrusted * tails + _sampled_tails(matrix, left, right, metric.samples)
    return Decomposition(left, right, tuple(tails.tolist()))


def row_roots(metric: Metric) -> torch.Tensor:
    """Square roots of a metric's gains, of which none is zero. -> (O,)"""
    floor = FLOOR * metric.gain.mean() + torch.finfo(torch.float32).tiny
    return (metric.gain + floor).sqrt()


def _sampled_tails(
    matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor, samples: Samples
) -> torch.Tensor:
    """The cost of what the first 0, 1, … r factors leave, on the samples. -> (r + 1,)"""
    taken = (samples.gradients @ left) * (samples.inputs @ right.T)  # (n, r)
    rest = samples.responses(matrix)[:, None] - taken.cumsum(1)
    costs: torch.Tensor = rest.double().square().sum(0)
    whole = samples.responses(matrix).double().square().sum()
    return torch.cat([whole[None], costs])


def _svd(
    matrix: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """The first singular vectors and values, the last few less exact; and the square of the rest.

    (O, I) -> (O, w), (w,), (w, I), a number
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
    rest = float((matrix - basis @ inside).double().square().sum())
    return basis @ small, values, right, rest
