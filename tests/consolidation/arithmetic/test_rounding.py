import pytest
import torch

from consolidation.arithmetic.metric import BLOCK, weight_metric
from consolidation.arithmetic.rounding import round_matrix
from representation.formats import ExpertShape, Packed, dense_expert
from tests.consolidation.metrics import correlated_metric, random_matrix
from tests.support.mixes import quantised

FORMATS = [Packed(bits, 32) for bits in range(1, 9)]


def plain_values(matrix: torch.Tensor, fmt: Packed) -> torch.Tensor:
    codes, scales = quantised(matrix, fmt)
    spread = scales.float().repeat_interleave(fmt.group, dim=1)[:, : matrix.shape[1]]
    values: torch.Tensor = (codes.float() - (2**fmt.bits - 1) / 2) * spread
    return values


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("num_columns", [64, 72, BLOCK + 44])
def test_codes_give_the_values_that_were_reckoned_with(fmt: Packed, num_columns: int) -> None:
    matrix = random_matrix(6, num_columns, size=0.1)
    found = round_matrix(matrix, fmt, correlated_metric(6, num_columns))
    shape = ExpertShape({"up_proj": (6, num_columns)}, False)
    tensors = fmt.encode({"up_proj": (found.codes, found.scales)}, {}, shape)
    assert torch.equal(dense_expert([(fmt, tensors)], shape)["up_proj"], found.values)
    assert found.scales.shape == (6, -(-num_columns // 32))
    assert int(found.codes.max()) < 2**fmt.bits


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_it_costs_less_than_rounding_each_weight_by_itself(fmt: Packed, size: float) -> None:
    num_columns = BLOCK + 44
    matrix, metric = random_matrix(16, num_columns), correlated_metric(16, num_columns, size=size)
    found = metric.cost(round_matrix(matrix, fmt, metric).values - matrix)
    by_itself = metric.cost(plain_values(matrix, fmt) - matrix)
    weights_alone = round_matrix(matrix, fmt, weight_metric((16, num_columns))).values
    assert found < 0.75 * by_itself
    assert found < metric.cost(weights_alone - matrix)


def test_more_bits_cost_less() -> None:
    matrix, metric = random_matrix(16, 96), correlated_metric(16, 96)
    costs = [metric.cost(round_matrix(matrix, fmt, metric).values - matrix) for fmt in FORMATS]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 1e-3 * costs[0]


@pytest.mark.parametrize("fmt", [Packed(1, 16), Packed(4, 16)], ids=str)
def test_rows_and_groups_of_zeros_are_nearly_zeros(fmt: Packed) -> None:
    matrix = random_matrix(4, 48)
    matrix[1] = 0.0
    matrix[:, 16:32] = 0.0
    found = round_matrix(matrix, fmt, weight_metric((4, 48)))
    assert bool(found.values.isfinite().all())
    assert float(found.values[1].abs().max()) < 1e-30
    assert bool((found.scales > 0).all())


def test_what_nothing_was_ever_given_to_is_rounded_all_the_same() -> None:
    metric = correlated_metric(4, 40, size=0.0)
    matrix = random_matrix(4, 40)
    found = round_matrix(matrix, Packed(8, 32), metric)
    assert float((found.values - matrix).abs().max()) < 0.05


def test_values_of_the_format_come_back_as_they_are() -> None:
    fmt = Packed(3, 8)
    values = round_matrix(random_matrix(5, 20), fmt, weight_metric((5, 20))).values
    again = round_matrix(values, fmt, weight_metric((5, 20))).values
    assert torch.allclose(again, values, rtol=2**-7)
