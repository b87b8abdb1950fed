"""What one part adds to a tile of outputs: one function for each way to store a matrix."""

import triton
import triton.language as tl

from serve_app.engine.device.kernels.code_numbers import in_order, numbers_of
from serve_app.engine.device.kernels.part_tile import Plane, Tile, pointer_at


@triton.jit
def _tokens(tile: Tile, is_row: tl.tensor, columns: tl.tensor) -> tl.tensor:
    """-> (M, columns); zero in other rows and beyond the last column"""
    mask = is_row[:, None] & (columns < tile.num_columns)[None, :]
    at = tile.x + tile.x_rows[:, None] * tile.num_columns + columns[None, :]
    return tl.load(at, mask, other=0)


@triton.jit
def _numbers(tile: Tile, plane: Plane, group: tl.tensor) -> tl.tensor:
    """128 + code, for a group of columns. -> (N, 128) bfloat16"""
    line_words: tl.constexpr = tile.num_columns * plane.width // 32
    places = group * (4 * plane.width) + tl.arange(0, 4 * plane.width)
    at = plane.codes + tile.lines[:, None] * line_words + places[None, :]
    if tile.num_columns % 128 == 0:
        words = tl.load(at)
    else:
        words = tl.load(at, (places < line_words)[None, :], other=0)
    if plane.width == 8:
        words = words >> plane.shift
    return numbers_of(words, tile.exponents, plane.width)


@triton.jit
def _scale(tile: Tile, plane: Plane, group: tl.tensor) -> tl.tensor:
    """-> (N,) float32"""
    num_groups: tl.constexpr = (tile.num_columns + 127) // 128
    return tl.load(plane.scales + tile.lines * num_groups + group).to(tl.float32) * plane.factor


@triton.jit
def add_plane(total: tl.tensor, tile: Tile, plane: Plane, is_row: tl.tensor) -> tl.tensor:
    """(code - half the levels) * scale, times x.

    Numbers are 128 + code: what is too much goes with the sum of a row's x, once for each group.
    """
    half: tl.constexpr = ((1 << min(plane.width, 4)) - 1) / 2
    for group in range(tile.first, tile.end):
        tokens = _tokens(tile, is_row, group * 128 + tl.arange(0, 128))
        sums = tl.sum(tokens.to(tl.float32), 1)  # (M,)
        numbers = _numbers(tile, plane, group).to(tokens.dtype)
        above = 128 + half
        if tokens.dtype == tl.float32:  # which shows what large sums cost
            numbers -= 128
            above = half
        ordered = tl.trans(in_order(tokens, plane.width))
        found = tl.dot(numbers, ordered, input_precision="ieee")  # (N, M)
        total += _scale(tile, plane, group)[:, None] * (found - sums[None, :] * above)
    return total


@triton.jit
def add_dense(total: tl.tensor, tile: Tile, matrix: tl.tensor, is_row: tl.tensor) -> tl.tensor:
    """A whole matrix times x."""
    for group in range(tile.first, tile.end):
        columns = group * 128 + tl.arange(0, 128)
        tokens = tl.trans(_tokens(tile, is_row, columns))
        total = tl.dot(_weights(tile, matrix, columns), tokens, total, input_precision="ieee")
    return total


@triton.jit
def _weights(tile: Tile, matrix: tl.tensor, columns: tl.tensor) -> tl.tensor:
    """-> (N, columns); zero beyond the last column"""
    is_column = columns < tile.num_columns
    if tile.transposed:
        at = matrix + columns[:, None] * tile.num_outputs + tile.lines[None, :]
        weights = tl.trans(tl.load(at, is_column[:, None], other=0))
    else:
        at = matrix + tile.lines[:, None] * tile.num_columns + columns[None, :]
        weights = tl.load(at, is_column[None, :], other=0)
    return weights


@triton.jit
def _octets(
    bits: tl.tensor, lines: tl.tensor, first: tl.tensor, line_bytes: tl.constexpr
) -> tl.tensor:
    """The bitmap of the 128 columns from `first` on. -> (N, 16) int32"""
    places = first // 8 + tl.arange(0, 16)
    at = bits + lines[:, None] * line_bytes + places[None, :]
    return tl.load(at, (places < line_bytes)[None, :], other=0).to(tl.int32)


@triton.jit
def _gap_octets(
    gaps: tl.tensor, entries: tl.tensor, ends: tl.tensor, before: tl.tensor, first: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Which of the 128 columns from `first` on have entries, as a bitmap of 16 bytes a line.

    entries, ends: (N,), the next entry of each line and the end of its entries
    before: (N,), the column of the entry before   ->  (N, 16) int32, and the last column, (N,)
    """
    chunk: tl.constexpr = 16
    octets = tl.zeros((entries.shape[0], 16), tl.int32)
    more = 1
    while more > 0:
        at = entries[:, None] + tl.arange(0, chunk)[None, :]  # (N, chunk)
        there = at < ends[:, None]
        steps = tl.load(gaps + at, there, other=0).to(tl.int32) + 1
        columns = before[:, None] + tl.cumsum(steps, 1)
        inside = there & (columns < first + 128)
        place = columns - first
        bit = tl.where(inside, 1 << (place & 7), 0)[:, :, None]
        is_octet = (place >> 3)[:, :, None] == tl.arange(0, 16)[None, None, :]
        octets += tl.sum(tl.where(is_octet, bit, 0), 1)
        taken = tl.sum(inside.to(tl.int32), 1)  # (N,)
        entries += taken
        before = tl.maximum(before, tl.max(tl.where(inside, columns, -1), 1))
        more = tl.max(tl.where(taken == chunk, 1, 0), 0)
    return octets, before


@triton.jit
def add_changed(
    total: tl.tensor,
    tile: Tile,
    matrix: tl.tensor,
    changes: tl.tensor,
    row: tl.tensor,
    is_row: tl.tensor,
) -> tl.tensor:
    """A matrix with new values in some places, times x. See `representation.formats.sparse`.

    matrix: the base   changes: the fields of the shelf   row: of the part
    """
    line_bytes: tl.constexpr = (tile.num_columns + 7) // 8
    values = pointer_at(changes + 2, matrix.dtype) + row * tl.load(changes + 3)
    starts = pointer_at(changes + 1, tl.pointer_type(tl.int32)) + row * (tile.num_outputs + 1)
    gaps = pointer_at(changes + 4, tl.pointer_type(tl.uint8)) + row * tl.load(changes + 3)
    bits = pointer_at(changes + 5, tl.pointer_type(tl.uint8))
    bits += row * (tile.num_outputs * line_bytes)
    has_gaps = tl.load(changes + 4) != 0
    entries = tl.load(starts + tile.lines)  # (N,)
    ends = tl.load(starts + tile.lines + 1)
    before = entries * 0 - 1
    for first in range(0, tile.num_columns, 128):
        columns = first + tl.arange(0, 128)
        if has_gaps:
            octets, before = _gap_octets(gaps, entries, ends, before, first)
        else:
            octets = _octets(bits, tile.lines, first, line_bytes)
        spread = octets[:, :, None] >> tl.arange(0, 8)[None, None, :]  # (N, 16, 8)
        is_new = tl.reshape(spread & 1, (tile.lines.shape[0], 128))
        entry = entries[:, None] + tl.cumsum(is_new, 1) - 1
        new = tl.load(values + entry, is_new > 0, other=0)
        weights = tl.where(is_new > 0, new, _weights(tile, matrix, columns))
        tokens = tl.trans(_tokens(tile, is_row, columns))
        total = tl.dot(weights, tokens, total, input_precision="ieee")
        entries += tl.sum(is_new, 1)
    return total


@triton.jit
def add_outer(
    total: tl.tensor,
    tile: Tile,
    left: tl.tensor,
    rank: tl.tensor,
    inner: tl.tensor,
    is_row: tl.tensor,
) -> tl.tensor:
    """The left factor times what `inner_products` found. left: (r, O)   inner: (M, 1) pointers"""
    for first in range(0, rank, 16):
        ranks = first + tl.arange(0, 16)
        is_rank = ranks < rank
        at = left + ranks[:, None] * tile.num_outputs + tile.lines[None, :]
        weights = tl.load(at, is_rank[:, None], other=0)  # (16, N)
        tokens = tl.load(inner + ranks[None, :], is_row[:, None] & is_rank[None, :], other=0)
        total = tl.dot(tl.trans(weights), tl.trans(tokens), total, input_precision="ieee")
    return total
