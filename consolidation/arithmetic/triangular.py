"""Cholesky factors and inverses of many small matrices, by halves. Knows no metric.

Half of a matrix is factored, the rest follows from products of matrices, which are faster than what
LAPACK does with a matrix of some hundred rows (recursive Cholesky: Gustavson, 1997).
"""

import torch

SMALL = 64
"""Rows that LAPACK takes as they are."""


def lower_factors(matrices: torch.Tensor) -> torch.Tensor:
    """Lower Cholesky factors of positive definite matrices. (…, n, n) -> (…, n, n)"""
    size = matrices.shape[-1]
    if size <= SMALL:
        small: torch.Tensor = torch.linalg.cholesky(matrices)
        return small
    half = size // 2
    found = torch.zeros_like(matrices)
    first = lower_factors(matrices[..., :half, :half])
    below = torch.linalg.solve_triangular(first, matrices[..., :half, half:], upper=False).mT
    found[..., :half, :half] = first
    found[..., half:, :half] = below
    found[..., half:, half:] = lower_factors(matrices[..., half:, half:] - below @ below.mT)
    return found


def upper_inverses(factors: torch.Tensor) -> torch.Tensor:
    """Inverses of upper triangular matrices. (…, n, n) -> (…, n, n)"""
    size = factors.shape[-1]
    if size <= SMALL:
        whole = torch.eye(size, dtype=factors.dtype, device=factors.device).expand_as(factors)
        small: torch.Tensor = torch.linalg.solve_triangular(factors, whole, upper=True)
        return small
    half = size // 2
    found = torch.zeros_like(factors)
    first = upper_inverses(factors[..., :half, :half])
    last = upper_inverses(factors[..., half:, half:])
    found[..., :half, :half] = first
    found[..., half:, half:] = last
    found[..., :half, half:] = -(first @ factors[..., :half, half:] @ last)
    return found
