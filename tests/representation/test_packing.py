"""Packing: codes go into planes and come back; lookups give what the formula says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from representation.formats import Packed
from representation.formats.codes import dequantise, pack


def random_codes(seed: int, bits: int, num_rows: int, num_columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (num_rows, num_columns)
    return torch.randint(0, 2**bits, size, generator=generator, dtype=torch.uint8)


@given(st.integers(0, 999), st.integers(1, 8), st.integers(1, 9), st.integers(1, 70))
def test_packed_codes_come_back(seed: int, bits: int, rows: int, columns: int) -> None:
    codes = random_codes(seed, bits, rows, columns)
    fmt = Packed(bits, columns)
    planes = pack(codes, fmt.widths)
    for width, plane in zip(fmt.widths, planes, strict=True):
        assert plane.shape == (rows, -(-columns * width // 8))
    levels = dequantise(planes, torch.ones(rows, 1), fmt, columns)
    assert torch.equal(levels + (2**bits - 1) / 2, codes.float())


def _values(
    codes: torch.Tensor, scales: torch.Tensor, fmt: Packed, dtype: torch.dtype
) -> torch.Tensor:
    return dequantise(pack(codes, fmt.widths), scales, fmt, codes.shape[1], dtype=dtype)


@settings(max_examples=200)
@given(
    st.integers(0, 999),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(1, 70),
    st.integers(1, 80),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_values_are_half_steps_times_scales_rounded_once(
    seed: int, bits: int, rows: int, columns: int, group: int, dtype: torch.dtype
) -> None:
    codes = random_codes(seed, bits, rows, columns)
    num_groups = -(-columns // group)
    scales = torch.rand(rows, num_groups, generator=torch.Generator().manual_seed(seed)).bfloat16()
    values = _values(codes, scales, Packed(bits, group), dtype)
    spread = scales.double().repeat_interleave(group, 1)[:, :columns]
    # The product of a level and a scale is exact in float32, so this rounds once as well.
    expected = ((codes.double() - (2**bits - 1) / 2) * spread).to(dtype)
    assert values.dtype == dtype
    assert torch.equal(values, expected)


def test_the_first_column_lies_in_the_lowest_bits_and_the_highest_bits_in_the_widest_plane() -> (
    None
):
    planes = pack(torch.tensor([[0b101, 0b010, 0b110]], dtype=torch.uint8), (2, 1))
    assert planes[0].tolist() == [[0b110110]]
    assert planes[1].tolist() == [[0b001]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_blocks_of_rows_and_stacked_experts_are_read_alike(bits: int) -> None:
    codes = torch.stack([random_codes(seed, bits, 6, 37) for seed in range(3)])
    scales = torch.rand(3, 6, 3).bfloat16()
    fmt = Packed(bits, 16)
    planes = pack(codes, fmt.widths)
    whole = dequantise(planes, scales, fmt, 37)
    assert whole.shape == (3, 6, 37)
    block = [plane[1, 2:5] for plane in planes]
    assert torch.equal(dequantise(block, scales[1, 2:5], fmt, 37), whole[1, 2:5])


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="code 4 has more than 2 bits"):
        pack(torch.tensor([[4]], dtype=torch.uint8), (2,))
    with pytest.raises(ValueError, match="int64, not uint8"):
        pack(torch.tensor([[4]]), (2, 1))
