import pytest
import torch

from consolidation.arithmetic.metric import (
    BLOCK,
    DAMPING,
    Metric,
    block_size,
    diagonal_blocks,
    from_blocks,
    in_blocks,
    together,
    weight_metric,
)
from tests.consolidation.metrics import correlated_metric, random_matrix, whole_moments

COLUMNS = [1, 24, BLOCK, BLOCK + 1, BLOCK + 44, 2 * BLOCK + 100]


@pytest.mark.parametrize("num_columns", COLUMNS)
def test_columns_come_back_from_blocks(num_columns: int) -> None:
    matrix = random_matrix(3, num_columns)
    blocks = in_blocks(matrix, num_columns)
    assert blocks.shape == (-(-num_columns // BLOCK), 3, block_size(num_columns))
    assert torch.equal(from_blocks(blocks, num_columns), matrix)
    assert not blocks.transpose(0, 1).flatten(1)[:, num_columns:].any()


@pytest.mark.parametrize("num_columns", COLUMNS)
def test_a_cost_is_what_the_formula_says(num_columns: int) -> None:
    metric = correlated_metric(5, num_columns)
    error = random_matrix(5, num_columns, seed=1)
    expected = torch.einsum("o,oi,ij,oj->", metric.gain, error, whole_moments(metric), error)
    assert metric.cost(error) == pytest.approx(float(expected), rel=1e-4)
    bias = random_matrix(5, seed=2)
    assert metric.vector_cost(bias) == pytest.approx(float((bias.square() * metric.gain).sum()))
    assert metric.scaled(3.0).cost(error) == pytest.approx(3 * metric.cost(error), rel=1e-5)
    assert metric.mass == pytest.approx(
        float(metric.gain.sum() * whole_moments(metric).trace()), rel=1e-5
    )


def test_weights_cost_their_squares() -> None:
    error = random_matrix(4, BLOCK + 3)
    metric = weight_metric((4, BLOCK + 3))
    assert metric.cost(error) == pytest.approx(float(error.square().sum()), rel=1e-5)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e4])
@pytest.mark.parametrize("num_columns", [24, BLOCK + 44])
def test_damping_is_by_the_features_that_there_are(num_columns: int, size: float) -> None:
    metric = correlated_metric(3, num_columns, size=size)
    wanted = whole_moments(metric).double()
    wanted += DAMPING * wanted.diagonal().mean() * torch.eye(num_columns)
    roots = torch.block_diag(*metric.roots().double())[:num_columns, :num_columns]
    assert torch.allclose(roots @ roots.T, wanted, rtol=1e-3, atol=1e-6 * size)
    inverse = torch.block_diag(*metric.inverse_roots(DAMPING).double())
    inverse = inverse[:num_columns, :num_columns]
    product = inverse.T @ inverse @ wanted
    assert torch.allclose(product, torch.eye(num_columns).double(), atol=1e-3)
    assert bool((inverse.tril(-1) == 0).all())


def test_spreads_are_variances_given_the_features_after() -> None:
    metric = correlated_metric(3, 6)
    damped = whole_moments(metric).double()
    damped += DAMPING * damped.diagonal().mean() * torch.eye(6)
    spreads = metric.spreads_of(metric.roots())
    for column in range(6):
        own, after = damped[column, column], slice(column + 1, 6)
        cross = damped[column, after]
        given = own - cross @ torch.linalg.solve(damped[after, after], cross)
        assert float(spreads[column]) == pytest.approx(float(given), rel=1e-4)
    more = correlated_metric(3, BLOCK + 3)
    assert more.spreads_of(more.roots()).shape == (BLOCK + 3,)


def test_a_metric_goes_along_with_rows_and_columns() -> None:
    metric, error = correlated_metric(6, 24), random_matrix(6, 24, seed=1)
    rows = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    columns = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    moved = metric.permuted(rows, columns)
    assert moved.cost(error[rows][:, columns]) == pytest.approx(metric.cost(error), rel=1e-4)
    assert metric.permuted(rows, None).cost(error[rows]) == pytest.approx(
        metric.cost(error), rel=1e-5
    )


def test_columns_that_change_blocks_keep_their_own_moments() -> None:
    num_columns = BLOCK + 40
    metric = correlated_metric(4, num_columns)
    columns = torch.arange(num_columns).flip(0)
    moved = metric.permuted(None, columns)
    assert torch.equal(whole_moments(moved), whole_moments(metric).diagonal().flip(0).diag_embed())
    assert moved.mass == pytest.approx(metric.mass, rel=1e-5)


def test_metrics_of_one_matrix_add_up() -> None:
    one, error = correlated_metric(5, 24), random_matrix(5, 24, seed=3)
    assert together([one], [2.0]).cost(error) == pytest.approx(2 * one.cost(error), rel=1e-5)
    same = together([one, one], [1.0, 0.5])
    assert same.cost(error) == pytest.approx(1.5 * one.cost(error), rel=1e-4)
    gains = Metric(one.gain * 4, one.moments, 24)
    assert together([one, gains], [1.0, 2.0]).cost(error) == pytest.approx(
        9 * one.cost(error), rel=1e-4
    )


def test_metrics_that_say_nothing_count_the_same() -> None:
    silent = Metric(torch.zeros(2), diagonal_blocks(torch.tensor([1.0, 3.0])), 2)
    other = Metric(torch.zeros(2), diagonal_blocks(torch.tensor([3.0, 1.0])), 2)
    found = together([silent, other], [1.0, 1.0])
    assert torch.equal(found.moments[0], 2 * torch.eye(2))
    assert found.cost(torch.ones(2, 2)) == 0
