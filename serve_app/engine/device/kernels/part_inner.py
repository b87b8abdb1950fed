"""Linear layers of experts that are sums of parts: what low-rank parts do first, in one launch."""

import triton
import triton.language as tl

from serve_app.engine.device.kernels.part_sums import add_dense
from serve_app.engine.device.kernels.part_tile import (
    FACTORS,
    Pairs,
    Parts,
    Tile,
    pointer_at,
    range_of,
    shelf_of,
    x_rows,
)


@triton.jit
def inner_products(
    x: tl.tensor,
    inner: tl.tensor,
    order: tl.tensor,
    rank_at: tl.tensor,
    starts: tl.tensor,
    tiles: tl.tensor,
    num_tiles: tl.tensor,
    part_table: tl.tensor,
    part_starts: tl.tensor,
    shelves: tl.tensor,
    num_inner: tl.tensor,
    num_columns: tl.constexpr,
    gathers: tl.constexpr,
    top_k: tl.constexpr,
    tile_m: tl.constexpr,
    largest_rank: tl.tensor,
) -> None:
    """Each pair's row of x times the right factors of its low-rank parts.

    inner: (places, num_inner), is filled where a pair has such a part; else see `part_products`
    """
    _take_inner(
        x,
        inner,
        num_tiles,
        Pairs(order, rank_at, starts, tiles, top_k, gathers),
        Parts(part_table, part_starts, shelves, 0, 0, num_inner),
        num_columns,
        tile_m,
        (largest_rank + 15) // 16,
    )


@triton.jit
def _take_inner(
    x: tl.tensor,
    inner: tl.tensor,
    num_tiles: tl.tensor,
    pairs: Pairs,
    parts: Parts,
    num_columns: tl.constexpr,
    tile_m: tl.constexpr,
    num_blocks: tl.tensor,
) -> None:
    """See `inner_products`."""
    for work in range(tl.program_id(0), tl.load(num_tiles) * num_blocks, tl.num_programs(0)):
        number, block = work // num_blocks, work % num_blocks
        lead = tl.load(pairs.tiles + number * 3)
        first = tl.load(pairs.tiles + number * 3 + 1)
        end = tl.load(pairs.tiles + number * 3 + 2)
        places = first + tl.arange(0, tile_m)
        own = x_rows(places, places < end, pairs)
        first_rank = tl.load(pairs.rank_at + first)
        for rank in range(first_rank - 1, tl.load(pairs.rank_at + end - 1) + 1):
            part, last, begin, stop = range_of(rank, first_rank, lead, first, end, pairs, parts)
            is_row = (places >= begin) & (places < stop)
            for one in range(part, last):
                shelf = shelf_of(one, parts)
                if tl.load(shelf) == FACTORS:
                    row = tl.load(parts.parts + one * 3 + 1).to(tl.int64)
                    at = inner + places[None, :].to(tl.int64) * parts.num_inner
                    _write_inner(x, own, shelf, row, at, is_row, block, num_columns)


@triton.jit
def _write_inner(
    x: tl.tensor,
    own: tl.tensor,
    shelf: tl.tensor,
    row: tl.tensor,
    inner: tl.tensor,
    is_row: tl.tensor,
    block: tl.tensor,
    num_columns: tl.constexpr,
) -> None:
    """16 ranks of one part. inner: (1, M) pointers"""
    rank = tl.load(shelf + 5).to(tl.int32)
    ranks = block * 16 + tl.arange(0, 16)
    right = pointer_at(shelf + 4, x.dtype) + row * rank * num_columns
    lines = tl.minimum(ranks, rank - 1)
    num_groups: tl.constexpr = (num_columns + 127) // 128
    found = add_dense(
        tl.zeros((16, own.shape[0]), tl.float32),
        Tile(x, own, lines, 0, num_groups, 0, num_columns, 0, False),
        right,
        is_row,
    )
    mask = is_row[None, :] & (ranks < rank)[:, None]
    at = inner + tl.load(shelf + 6) + ranks[:, None]
    tl.store(at, found.to(inner.dtype.element_ty), mask)
