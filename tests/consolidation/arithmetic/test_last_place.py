import math

import pytest
import torch

from consolidation.arithmetic.last_place import PART, nearly_equal, same_bits

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def moved(values: torch.Tensor, count: int, steps: int = 1) -> torch.Tensor:
    """A copy in which the first values are some units in the last place larger."""
    integers = torch.int32 if values.dtype == torch.float32 else torch.int16
    copy = values.clone()
    copy.view(integers)[:count] += steps
    return copy


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_unit_in_one_percent_of_the_values_is_noise(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert nearly_equal(values, moved(values, 10), dtype)
    assert nearly_equal(moved(values, 10), values, dtype)
    assert not nearly_equal(values, moved(values, 11), dtype)
    assert not nearly_equal(values, moved(values, 1, steps=2), dtype)
    assert not nearly_equal(values[:99], moved(values[:99], 1), dtype)


def test_one_unit_may_cross_a_power_of_two_or_lie_beside_zero() -> None:
    below = torch.tensor([2.0**-3 - 2.0**-11, *[1.0] * 99], dtype=torch.bfloat16)
    assert nearly_equal(below, torch.tensor([2.0**-3, *[1.0] * 99]).bfloat16(), torch.bfloat16)
    least = torch.tensor([1, *[0] * 99], dtype=torch.int16).view(torch.bfloat16)
    zeros = torch.zeros(100, dtype=torch.bfloat16)
    assert nearly_equal(least, zeros, torch.bfloat16)
    assert nearly_equal(-least, zeros, torch.bfloat16)
    assert not nearly_equal(-least, least, torch.bfloat16)


def test_the_zeros_are_equal_though_their_bits_differ() -> None:
    zeros = torch.zeros(3)
    assert nearly_equal(zeros, -zeros, torch.float32)
    assert not same_bits(zeros, -zeros)


def test_tensors_are_compared_after_rounding_to_the_familys_dtype() -> None:
    wide = torch.randn(500, generator=torch.Generator().manual_seed(0))
    assert nearly_equal(wide, wide.bfloat16(), torch.bfloat16)
    assert nearly_equal(wide, wide.bfloat16().float(), torch.bfloat16)
    assert not nearly_equal(wide, wide.bfloat16(), torch.float32)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_equals_only_itself(value: float) -> None:
    one = torch.ones(200, dtype=torch.bfloat16)
    one[0] = value
    other = one.clone()
    assert nearly_equal(one, other, torch.bfloat16)
    other[0] = torch.finfo(torch.bfloat16).max
    assert not nearly_equal(one, other, torch.bfloat16)


def test_shapes_and_integers_must_be_the_same() -> None:
    assert not nearly_equal(torch.ones(2, 3), torch.ones(3, 2), torch.float32)
    counts = torch.arange(300)
    assert nearly_equal(counts, counts.clone(), torch.float32)
    assert not nearly_equal(counts, counts + (counts == 1), torch.float32)
    assert nearly_equal(torch.ones(0), torch.ones(0), torch.float32)


def test_the_share_is_of_the_whole_tensor_however_it_is_taken_apart() -> None:
    values = torch.ones(PART + PART // 2, dtype=torch.bfloat16)
    assert nearly_equal(values, moved(values, PART // 70), torch.bfloat16)
    assert not nearly_equal(values, moved(values, PART // 60), torch.bfloat16)
