from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.arithmetic.decomposition import decompose
from consolidation.arithmetic.factors import Factors
from consolidation.arithmetic.metric import BLOCK, Metric, Samples, weight_metric
from consolidation.arithmetic.sketch import Sketcher, powers
from tests.consolidation.metrics import correlated_metric, random_matrix

GROUP = 128


def sampled(metric: Metric, trust: float) -> Metric:
    """The metric with tokens of its own kind: as many of the cost as `trust` says."""
    inputs = random_matrix(400, metric.num_columns, seed=5)
    gradients = random_matrix(400, len(metric.gain), seed=6) * (metric.gain * trust / 400).sqrt()
    return replace(metric, samples=Samples(inputs, gradients, trust))


def spread(metric: Metric, matrix: torch.Tensor) -> float:
    return Sketcher(metric, 4, GROUP).spread(powers(matrix, GROUP))


def falling(num_rows: int, num_columns: int, seed: int = 1, weak: float = 1.0) -> torch.Tensor:
    """A matrix with some strong factors and many weak ones, as differences of fine-tunes have."""
    strong = random_matrix(num_rows, 6, seed=seed) @ random_matrix(6, num_columns, seed=seed + 1)
    return strong + random_matrix(num_rows, num_columns, seed=seed + 2, size=weak)


@settings(deadline=None, max_examples=20)
@given(
    num_rows=st.integers(1, 90),
    num_columns=st.integers(1, 2 * BLOCK + 9),
    trust=st.sampled_from([None, 0.5, 0.99]),
    size=st.sampled_from([1e-6, 1.0]),
)
def test_a_sketch_tells_nearly_what_a_decomposition_costs(
    num_rows: int, num_columns: int, trust: float | None, size: float
) -> None:
    metric = correlated_metric(num_rows, num_columns, size=size)
    if trust is not None:
        metric = sampled(metric, trust)
    matrix = falling(num_rows, num_columns)
    found = Sketcher(metric, 16, GROUP).of(matrix)
    left, right = decompose(matrix, metric, 16)
    best = [metric.cost(matrix - left[:, :r] @ right[:r]) for r in range(len(right) + 1)]
    assert len(found.tails) == len(best) == len(found.taken)
    whole = best[0]
    assert found.tails[0] == pytest.approx(whole, rel=0.1)
    for mine, other in zip(found.tails, best, strict=True):
        assert 0.9 * other - 0.02 * whole <= mine <= 1.4 * other + 0.02 * whole


@pytest.mark.parametrize("num_columns", [64, BLOCK + 44])
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_of_a_low_rank_nothing_is_left_and_all_spread_is_taken(rank: int, num_columns: int) -> None:
    matrix = random_matrix(48, rank, seed=1) @ random_matrix(rank, num_columns, seed=2)
    metric = correlated_metric(48, num_columns)
    found = Sketcher(metric, 16, GROUP).of(matrix)
    assert found.tails[rank] < 1e-5 * found.tails[0] < found.tails[rank - 1]
    assert found.taken[rank] == pytest.approx(spread(metric, matrix), rel=1e-3)


def test_what_factors_take_is_what_the_spread_of_the_rest_lacks() -> None:
    metric, matrix = correlated_metric(40, BLOCK + 44), falling(40, BLOCK + 44, weak=0.1)
    found = Sketcher(metric, 12, GROUP).of(matrix)
    factors = decompose(matrix, metric, 12)
    for rank in (1, 4, 6):
        left = spread(metric, matrix - factors[0][:, :rank] @ factors[1][:rank])
        assert spread(metric, matrix) - found.taken[rank] == pytest.approx(left, rel=0.2)


@pytest.mark.parametrize("num_columns", [1, 100, GROUP, BLOCK + 44])
def test_powers_are_mean_squares_of_groups(num_columns: int) -> None:
    matrix = random_matrix(3, num_columns)
    found = powers(matrix, GROUP)
    for number, group in enumerate(matrix.split(GROUP, dim=1)):
        assert torch.allclose(found[:, number], group.square().mean(1), rtol=1e-5)
    assert found.shape[1] == -(-num_columns // GROUP)


def test_the_spread_of_weights_alone_is_their_sum_of_squares() -> None:
    matrix = random_matrix(5, 300)
    damped = 1.01  # of moments of 1
    found = spread(weight_metric((5, 300)), matrix)
    assert found == pytest.approx(damped * float(matrix.square().sum()), rel=1e-4)


def test_a_part_of_a_difference_costs_its_square() -> None:
    sketcher, matrix = Sketcher(correlated_metric(20, 40), 4, GROUP), random_matrix(20, 40)
    third = sketcher.of(matrix / 3)
    assert sketcher.of(matrix).scaled(1 / 3).tails == pytest.approx(third.tails, rel=1e-4)
    assert sketcher.of(matrix).scaled(1 / 3).taken == pytest.approx(third.taken, rel=1e-4)


def test_the_same_difference_is_always_seen_alike() -> None:
    metric, matrix = sampled(correlated_metric(32, 40), 0.5), random_matrix(32, 40)
    assert Sketcher(metric, 8, GROUP).of(matrix) == Sketcher(metric, 8, GROUP).of(matrix)


def test_rows_that_never_mattered_and_differences_of_nothing_do_no_harm() -> None:
    metric = correlated_metric(16, 24)
    silent = Metric(torch.zeros(16), metric.moments, 24)
    for one, matrix in ((silent, random_matrix(16, 24)), (metric, torch.zeros(16, 24))):
        found = Sketcher(one, 8, GROUP).of(matrix)
        assert max(found.tails) < 1e-30 or one is silent
        assert all(torch.tensor([*found.tails, *found.taken]).isfinite())


@settings(deadline=None, max_examples=15)
@given(
    rank=st.integers(1, 12),
    num_columns=st.integers(30, BLOCK + 40),
    trust=st.sampled_from([None, 0.5]),
)
def test_known_factors_are_weighed_as_they_are(
    rank: int, num_columns: int, trust: float | None
) -> None:
    metric = correlated_metric(30, num_columns)
    if trust is not None:
        metric = sampled(metric, trust)
    factors = Factors(random_matrix(30, rank, seed=1), random_matrix(rank, num_columns, seed=2))
    matrix = factors.product()
    sketcher = Sketcher(metric, 8, GROUP)
    found, looked_for = sketcher.of(matrix, factors), sketcher.of(matrix)

    assert found.tails == pytest.approx(looked_for.tails, rel=1e-3, abs=1e-5 * found.tails[0])
    assert found.taken == pytest.approx(looked_for.taken, rel=1e-3)
    assert max(found.tails[rank:], default=0.0) <= 1e-6 * found.tails[0]
