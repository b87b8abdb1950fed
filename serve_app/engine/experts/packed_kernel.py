"""A product with packed parts on CUDA: a Triton kernel that reads the bits. Imported when needed.

Codes are unpacked in registers, a tile at a time; no matrix is ever unpacked in memory.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from representation.formats import Packed

MANY_ROWS = 32
"""Rows for each matrix from which larger tiles pay."""


@triton.jit
def _unpacked(
    code: tl.tensor,
    plane: tl.tensor,
    lines: tl.tensor,
    columns: tl.tensor,
    mask: tl.tensor,
    num_bytes: tl.constexpr,
    width: tl.constexpr,
) -> tl.tensor:
    """The codes so far, and below them the bits of the next plane. (N, K) int32"""
    byte = tl.load(
        plane + lines[:, None] * num_bytes + (columns * width // 8)[None, :], mask, other=0
    )
    bits = (byte.to(tl.int32) >> (columns * width % 8)[None, :]) & ((1 << width) - 1)
    return (code << width) | bits


@triton.jit
def _scaled(
    code: tl.tensor,
    scales: tl.tensor,
    lines: tl.tensor,
    columns: tl.tensor,
    mask: tl.tensor,
    num_bits: tl.constexpr,
    group_size: tl.constexpr,
    num_scales: tl.constexpr,
) -> tl.tensor:
    """The values of codes, which are spread evenly around zero. (N, K) float32"""
    where = scales + lines[:, None] * num_scales + (columns // group_size)[None, :]
    scale = tl.load(where, mask, other=0).to(tl.float32)
    return (code.to(tl.float32) - ((1 << num_bits) - 1) * 0.5) * scale


@triton.jit
def _packed_linear(
    x: tl.tensor,
    out: tl.tensor,
    plane8: tl.tensor,
    plane4: tl.tensor,
    plane2: tl.tensor,
    plane1: tl.tensor,
    scales: tl.tensor,
    tile_groups: tl.tensor,
    tile_starts: tl.tensor,
    ends: tl.tensor,
    num_groups: tl.tensor,
    num_outputs: tl.tensor,
    num_columns: tl.tensor,
    num_bits: tl.constexpr,
    group_size: tl.constexpr,
    bytes8: tl.constexpr,
    bytes4: tl.constexpr,
    bytes2: tl.constexpr,
    bytes1: tl.constexpr,
    num_scales: tl.constexpr,
    tile_m: tl.constexpr,
    tile_n: tl.constexpr,
    tile_k: tl.constexpr,
) -> None:
    """A tile of (tile_m rows of one group) × (tile_n outputs); tiles beyond the last do nothing."""
    group = tl.load(tile_groups + tl.program_id(0))
    if group < num_groups:
        rows = tl.load(tile_starts + tl.program_id(0)) + tl.arange(0, tile_m)
        is_row = rows < tl.load(ends + group)
        outputs = tl.program_id(1) * tile_n + tl.arange(0, tile_n)
        is_output = outputs < num_outputs
        lines = group * num_outputs + outputs  # int64, as the groups of tiles are
        total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
        for first in range(0, num_columns, tile_k):
            columns = first + tl.arange(0, tile_k)
            is_column = columns < num_columns
            mask = is_output[:, None] & is_column[None, :]
            code = tl.zeros((tile_n, tile_k), dtype=tl.int32)
            if num_bits & 8:
                code = _unpacked(code, plane8, lines, columns, mask, bytes8, 8)
            if num_bits & 4:
                code = _unpacked(code, plane4, lines, columns, mask, bytes4, 4)
            if num_bits & 2:
                code = _unpacked(code, plane2, lines, columns, mask, bytes2, 2)
            if num_bits & 1:
                code = _unpacked(code, plane1, lines, columns, mask, bytes1, 1)
            values = _scaled(code, scales, lines, columns, mask, num_bits, group_size, num_scales)
            tokens = tl.load(
                x + rows[:, None] * num_columns + columns[None, :],
                is_row[:, None] & is_column[None, :],
                other=0,
            )
            weights = tl.trans(values.to(tokens.dtype))
            total = tl.dot(tokens, weights, total, input_precision="ieee")
        tl.store(
            out + rows[:, None] * num_outputs + outputs[None, :],
            total.to(out.dtype.element_ty),
            is_row[:, None] & is_output[None, :],
        )


def packed_linear_kernel(
    x: torch.Tensor,
    planes: Sequence[torch.Tensor],
    scales: torch.Tensor,
    fmt: Packed,
    ends: torch.Tensor,
) -> torch.Tensor:
    """Each group of rows times its own packed matrix; rows behind the last group are zero.

    x: (m, I)   planes: (P, O, bytes) uint8, widest first   scales: (P, O, G)
    ends: (P,) int32  ->  (m, O)
    Nothing here waits for the device: there are as many tiles as any ends could need.
    """
    x = x.contiguous()
    num_rows, num_columns = x.shape
    num_groups, num_outputs, num_scales = scales.shape
    tile_m = 64 if num_rows >= MANY_ROWS * num_groups else 16
    tile_n, tile_k = 64, 64 if x.dtype.itemsize == 2 else 32
    num_tiles = min(num_rows, num_groups) + num_rows // tile_m
    groups, starts = _tiles(ends, num_tiles, tile_m)
    out = x.new_zeros((num_rows, num_outputs))
    by_width = dict(zip(fmt.widths, planes, strict=True))
    sizes = {w: by_width[w].shape[-1] if w in by_width else 0 for w in (8, 4, 2, 1)}
    _packed_linear[(num_tiles, triton.cdiv(num_outputs, tile_n))](
        x,
        out,
        *(by_width.get(width, scales) for width in sizes),
        scales,
        groups,
        starts,
        ends,
        num_groups,
        num_outputs,
        num_columns,
        num_bits=fmt.bits,
        group_size=fmt.group,
        **{f"bytes{width}": size for width, size in sizes.items()},
        num_scales=num_scales,
        tile_m=tile_m,
        tile_n=tile_n,
        tile_k=tile_k,
    )
    return out


def _tiles(ends: torch.Tensor, num_tiles: int, tile_m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Group and first row of each tile, int64; group P where there are fewer. -> (num_tiles,)"""
    begins = torch.cat([ends.new_zeros(1), ends[:-1]])  # (P,)
    tile_ends = ((ends - begins + tile_m - 1) // tile_m).cumsum(0)  # (P,) int64
    tiles = torch.arange(num_tiles, device=ends.device)
    groups = torch.searchsorted(tile_ends, tiles, right=True)
    known = groups.clamp(max=ends.shape[0] - 1)
    before = torch.where(known > 0, tile_ends[known - 1], 0)
    return groups, begins[known] + (tiles - before) * tile_m
