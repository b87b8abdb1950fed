"""Metrics and matrices for tests, with inputs that go together as those of real layers do."""

import torch

from consolidation.arithmetic.metric import Metric, block_size, diagonal_blocks


def random_matrix(*shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def correlated_metric(num_rows: int, num_columns: int, seed: int = 0, size: float = 1.0) -> Metric:
    """Gains far apart; inputs that lie mostly in a few directions, all of this variance or so."""
    generator = torch.Generator().manual_seed(seed)
    width = block_size(num_columns)
    moments = diagonal_blocks(torch.full((num_columns,), 0.05 * size))
    for number, block in enumerate(moments):
        real = min(width, num_columns - number * width)
        directions = torch.randn(real, max(1, real // 8), generator=generator)
        block[:real, :real] += directions @ directions.T * (size / directions.shape[1])
    gain = torch.rand(num_rows, generator=generator).square() * size
    return Metric(gain, moments, num_columns)


def whole_moments(metric: Metric) -> torch.Tensor:
    """The moments of all features as one matrix, those that fill blocks left out. -> (I, I)"""
    found: torch.Tensor = torch.block_diag(*metric.moments)
    return found[: metric.num_columns, : metric.num_columns]
