import pytest
import torch

from consolidation.arithmetic.decomposition import decompose
from consolidation.arithmetic.metric import BLOCK, Metric, weight_metric
from tests.consolidation.metrics import correlated_metric, random_matrix


def nearest(matrix: torch.Tensor, metric: Metric, rank: int) -> torch.Tensor:
    left, right = decompose(matrix, metric, rank)
    return left @ right


def of_rank(rank: int, num_rows: int, num_columns: int) -> torch.Tensor:
    return random_matrix(num_rows, rank, seed=1) @ random_matrix(rank, num_columns, seed=2)


@pytest.mark.parametrize("num_columns", [64, BLOCK + 44])
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_a_matrix_of_low_rank_is_found_back(rank: int, num_columns: int) -> None:
    matrix = of_rank(rank, 48, num_columns)
    for metric in (correlated_metric(48, num_columns), weight_metric((48, num_columns))):
        left, right = decompose(matrix, metric, 16)
        assert left.shape == (48, 16)
        assert right.shape == (16, num_columns)
        error = (left[:, :rank] @ right[:rank] - matrix).norm() / matrix.norm()
        assert float(error) < 1e-3
        fewer = left[:, : rank - 1] @ right[: rank - 1]
        assert metric.cost(matrix - fewer) > 1e-4 * metric.cost(matrix)


def test_of_weights_alone_it_is_the_truncated_decomposition() -> None:
    matrix = random_matrix(40, 60)
    values = torch.linalg.svdvals(matrix)
    left, right = decompose(matrix, weight_metric((40, 60)), 12)
    for rank in range(13):
        best = float(values[rank:].square().sum())
        cost = float((matrix - left[:, :rank] @ right[:rank]).square().sum())
        assert best * 0.999 <= cost <= best * 1.05


@pytest.mark.parametrize("num_columns", [64, BLOCK + 44])
@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_what_matters_is_kept_first(num_columns: int, size: float) -> None:
    matrix, metric = random_matrix(32, num_columns), correlated_metric(32, num_columns, size=size)
    left, right = decompose(matrix, metric, 8)
    plain = nearest(matrix, weight_metric((32, num_columns)), 8)
    costs = [metric.cost(matrix - left[:, :rank] @ right[:rank]) for rank in range(9)]
    assert costs[8] < 0.9 * metric.cost(matrix - plain)
    assert costs == sorted(costs, reverse=True)


def test_no_rank_is_more_than_that_of_the_shape() -> None:
    left, right = decompose(random_matrix(6, 9), weight_metric((6, 9)), 64)
    assert left.shape == (6, 6)
    assert torch.allclose(left @ right, random_matrix(6, 9), atol=1e-4)


def test_the_same_matrix_gives_the_same_factors() -> None:
    matrix, metric = random_matrix(32, 40), correlated_metric(32, 40)
    one, other = decompose(matrix, metric, 4), decompose(matrix, metric, 4)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_rows_that_never_mattered_do_no_harm() -> None:
    matrix, metric = of_rank(4, 16, 24), correlated_metric(16, 24)
    silent = Metric(torch.zeros(16), metric.moments, 24)
    some = Metric(metric.gain * (torch.arange(16) < 8), metric.moments, 24)
    for left, right in (decompose(matrix, silent, 8), decompose(matrix, some, 8)):
        assert bool(left.isfinite().all())
        assert bool(right.isfinite().all())
    assert some.cost(nearest(matrix, some, 4) - matrix) < 1e-4 * some.cost(matrix)
