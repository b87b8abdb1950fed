"""Rounding in torch and by compiled code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.arithmetic import rounding
from consolidation.arithmetic.compiled_rounding import library
from consolidation.arithmetic.metric import Metric
from representation.formats import Packed
from tests.consolidation.metrics import correlated_metric, random_matrix

compiled = pytest.mark.skipif(library() is None, reason="nothing was compiled for this CPU")


@pytest.fixture(scope="module", autouse=True)
def one_thread_again() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_torch(matrix: torch.Tensor, fmt: Packed, metric: Metric) -> rounding.Rounded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "library", lambda: None)
        return rounding.round_matrix(matrix, fmt, metric)


def assert_same(one: rounding.Rounded, other: rounding.Rounded) -> None:
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scales, other.scales)
    assert torch.equal(one.values.view(torch.int32), other.values.view(torch.int32))


@compiled
@settings(deadline=None, max_examples=25)
@given(
    num_rows=st.integers(1, 40),
    num_columns=st.integers(1, 600),
    bits=st.integers(1, 8),
    group=st.sampled_from([1, 8, 32, 128, 256]),
    size=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_compiled_code_rounds_as_torch_does_to_the_bit(
    num_rows: int, num_columns: int, bits: int, group: int, size: float, seed: int
) -> None:
    matrix = random_matrix(num_rows, num_columns, seed=seed, size=size)
    matrix[seed % num_rows] = 0.0
    metric = correlated_metric(num_rows, num_columns, seed)
    fmt = Packed(bits, group)
    assert_same(rounding.round_matrix(matrix, fmt, metric), in_torch(matrix, fmt, metric))


@compiled
def test_the_last_bits_agree_where_each_column_has_a_scale() -> None:
    fmt = Packed(5, 1)  # A scale of one number shows what many columns have handed on to it.
    matrix, metric = random_matrix(400, 200, seed=3), correlated_metric(400, 200)
    assert_same(rounding.round_matrix(matrix, fmt, metric), in_torch(matrix, fmt, metric))


@compiled
def test_compiled_code_rounds_alike_on_any_number_of_threads() -> None:
    matrix, metric = random_matrix(100, 300), correlated_metric(100, 300)
    torch.set_num_threads(1)
    alone = rounding.round_matrix(matrix, Packed(3, 128), metric)
    torch.set_num_threads(5)
    assert_same(alone, rounding.round_matrix(matrix, Packed(3, 128), metric))


@compiled
def test_compiled_code_reads_a_matrix_that_does_not_lie_line_by_line() -> None:
    matrix, metric = random_matrix(300, 20).T, correlated_metric(20, 300)
    found = rounding.round_matrix(matrix, Packed(4, 128), metric)
    assert_same(found, rounding.round_matrix(matrix.contiguous(), Packed(4, 128), metric))


def test_groups_that_would_lie_in_two_blocks_are_not_rounded() -> None:
    matrix, metric = random_matrix(4, 300), correlated_metric(4, 300)
    with pytest.raises(AssertionError, match="groups of 48 do not fill blocks of 256"):
        rounding.round_matrix(matrix, Packed(4, 48), metric)


@pytest.mark.parametrize("bits", [2, 5])
def test_matrices_that_are_rounded_together_come_out_as_alone(bits: int) -> None:
    fmt, seeds = Packed(bits, 128), range(3)
    matrices = [random_matrix(7, 300, seed=seed) for seed in seeds]
    metrics = [correlated_metric(7, 300, seed) for seed in seeds]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "library", lambda: None)
        together = rounding.round_matrices(matrices, fmt, metrics)
    for matrix, metric, found in zip(matrices, metrics, together, strict=True):
        assert_same(found, in_torch(matrix, fmt, metric))
