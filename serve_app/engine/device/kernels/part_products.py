"""Linear layers of experts that are sums of parts: the products, for all shelves in one launch.

Programs take work as long as there is any: tiles of pairs with one lead, by blocks of lines. A tile
adds up all parts of its pairs in registers, in one order, and is written once.
"""

import triton
import triton.language as tl

from serve_app.engine.device.kernels.part_gate import Gating, Sizes, gated, lines_of
from serve_app.engine.device.kernels.part_sums import (
    add_changed,
    add_dense,
    add_outer,
    add_plane,
)
from serve_app.engine.device.kernels.part_tile import (
    CHANGES,
    DENSE,
    FACTORS,
    PLANES,
    Pairs,
    Parts,
    Plane,
    Tile,
    pointer_at,
    range_of,
    shelf_of,
    x_rows,
)

SUPER_TILES = tl.constexpr(8)
"""Tiles that take a block of lines one after another, so that these are still in the cache."""


@triton.jit
def _codes(tile: Tile, field: tl.tensor, row: tl.tensor, width: tl.constexpr) -> tl.tensor:
    """The codes of a part in a plane. field: where those of the shelf are"""
    line_words: tl.constexpr = tile.num_columns * width // 32
    return pointer_at(field, tl.pointer_type(tl.int32)) + row * (tile.num_outputs * line_words)


@triton.jit
def _add_planes(
    total: tl.tensor,
    tile: Tile,
    shelf: tl.tensor,
    row: tl.tensor,
    is_row: tl.tensor,
    widths: tl.constexpr,
) -> tl.tensor:
    """All planes of a packed part. shelf: its fields"""
    num_groups: tl.constexpr = (tile.num_columns + 127) // 128
    scales = pointer_at(shelf + 1, tl.pointer_type(tl.bfloat16))
    scales += row * (tile.num_outputs * num_groups)
    for number in range(tl.load(shelf).to(tl.int32)):
        fields = shelf + 2 + number * 4
        shift = tl.load(fields + 2).to(tl.int32)
        factor = (1 << tl.load(fields + 3).to(tl.int32)).to(tl.float32)
        width = tl.load(fields + 1)
        for power in tl.static_range(4):
            if widths & (1 << power):
                if width == 1 << power:
                    codes = _codes(tile, fields, row, 1 << power)
                    total = add_plane(
                        total, tile, Plane(codes, scales, shift, factor, 1 << power), is_row
                    )
    return total


@triton.jit
def _add_bias(
    total: tl.tensor, tile: Tile, shelf: tl.tensor, row: tl.tensor, is_row: tl.tensor
) -> tl.tensor:
    """shelf: its line of the table"""
    address = tl.load(shelf + 1)
    if address != 0:
        at = row * tile.num_outputs + tile.lines
        if tl.load(shelf + 2) != 0:
            bias = tl.load(address.to(tl.pointer_type(tl.float32)) + at)
        else:
            bias = tl.load(address.to(tile.x.dtype) + at).to(tl.float32)
        total += bias[:, None] * is_row.to(tl.float32)[None, :]
    return total


@triton.jit
def _add_part(
    total: tl.tensor,
    tile: Tile,
    part: tl.tensor,
    places: tl.tensor,
    begin: tl.tensor,
    stop: tl.tensor,
    inner: tl.tensor,
    pairs: Pairs,
    parts: Parts,
) -> tl.tensor:
    """part: its line of the table, for places [begin, stop)

    What is not cut into groups of columns is done with the first of them.
    """
    shelf = shelf_of(part, parts)
    row = tl.load(parts.parts + part * 3 + 1).to(tl.int64)
    kind = tl.load(shelf)
    is_row = (places >= begin) & (places < stop)
    matrix_size: tl.constexpr = tile.num_outputs * tile.num_columns
    if PLANES & parts.kinds:
        if kind == PLANES:
            total = _add_planes(total, tile, shelf + 3, row, is_row, parts.widths)
    if DENSE & parts.kinds:
        if kind == DENSE:
            matrix = pointer_at(shelf + 3, tile.x.dtype) + row * matrix_size
            total = add_dense(total, tile, matrix, is_row)
    if tile.first == 0:
        if CHANGES & parts.kinds:
            if kind == CHANGES:
                base = tl.load(parts.parts + part * 3 + 2).to(tl.int64)
                matrix = pointer_at(shelf + 3, tile.x.dtype) + base * matrix_size
                total = add_changed(total, tile, matrix, shelf + 3, row, is_row)
        if FACTORS & parts.kinds:
            if kind == FACTORS:
                rank = tl.load(shelf + 5).to(tl.int32)
                left = pointer_at(shelf + 3, tile.x.dtype) + row * rank * tile.num_outputs
                at = inner + places[:, None].to(tl.int64) * parts.num_inner + tl.load(shelf + 6)
                total = add_outer(total, tile, left, rank, at, is_row)
        total = _add_bias(total, tile, shelf, row, is_row)
    return total


@triton.jit
def _write(
    total: tl.tensor,
    out: tl.tensor,
    block: tl.tensor,
    places: tl.tensor,
    is_row: tl.tensor,
    pairs: Pairs,
    sizes: Sizes,
    gating: Gating,
) -> None:
    """out: (places, …) if x was gathered, else (pairs, …)"""
    found = gated(total, sizes, gating) if gating.is_on else total
    width: tl.constexpr = sizes.num_outputs // 2 if gating.is_on else sizes.num_outputs
    lines = block * found.shape[0] + tl.arange(0, found.shape[0])
    rows = places
    if not pairs.gathers:
        rows = tl.load(pairs.order + places, is_row, other=0)
    at = out + rows[None, :].to(tl.int64) * width + lines[:, None]
    tl.store(at, found.to(out.dtype.element_ty), is_row[None, :] & (lines < width)[:, None])


@triton.jit
def part_products(
    x: tl.tensor,
    out: tl.tensor,
    inner: tl.tensor,
    order: tl.tensor,
    rank_at: tl.tensor,
    starts: tl.tensor,
    tiles: tl.tensor,
    num_tiles: tl.tensor,
    part_table: tl.tensor,
    part_starts: tl.tensor,
    shelves: tl.tensor,
    partials: tl.tensor,
    arrivals: tl.tensor,
    exponents: tl.tensor,
    kinds: tl.constexpr,
    widths: tl.constexpr,
    num_inner: tl.tensor,
    num_columns: tl.constexpr,
    num_outputs: tl.constexpr,
    transposed: tl.constexpr,
    gathers: tl.constexpr,
    top_k: tl.constexpr,
    tile_m: tl.constexpr,
    tile_n: tl.constexpr,
    is_gated: tl.constexpr,
    by_turns: tl.constexpr,
    limit: tl.constexpr,
    slope: tl.constexpr,
    shift: tl.constexpr,
) -> None:
    """Each pair's row of x times the sum of its parts.

    x: (T, I) if `gathers`, else (places, I)   inner: (places, num_inner), of `inner_products`
    out: is filled: (places, O) if `gathers`, else (pairs, O), or O / 2 if it is gated
    partials: one tile for each program   arrivals: zeros, one for each program, and left as zeros
    If there are fewer tiles than programs, several share one: each takes some of the columns, and
    the last to finish adds up what all found, in order.
    """
    _take_work(
        x,
        out,
        inner,
        num_tiles,
        partials,
        arrivals,
        exponents,
        Pairs(order, rank_at, starts, tiles, top_k, gathers),
        Parts(part_table, part_starts, shelves, kinds, widths, num_inner),
        Sizes(num_columns, num_outputs, transposed, tile_m, tile_n),
        Gating(is_gated, by_turns, limit, slope, shift),
    )


@triton.jit
def _place_of(
    here: tl.tensor, num_tiles: tl.tensor, num_blocks: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The tile and the block of lines of a piece of work; see `SUPER_TILES`."""
    above = here // (SUPER_TILES * num_blocks) * SUPER_TILES
    size = tl.minimum(num_tiles - above, SUPER_TILES)
    within = here % (SUPER_TILES * num_blocks)
    return above + within % size, within // size


@triton.jit
def _take_work(
    x: tl.tensor,
    out: tl.tensor,
    inner: tl.tensor,
    num_tiles: tl.tensor,
    partials: tl.tensor,
    arrivals: tl.tensor,
    exponents: tl.tensor,
    pairs: Pairs,
    parts: Parts,
    sizes: Sizes,
    gating: Gating,
) -> None:
    """See `part_products`."""
    num_blocks: tl.constexpr = (sizes.num_outputs + sizes.tile_n - 1) // sizes.tile_n
    num_groups: tl.constexpr = (sizes.num_columns + 127) // 128
    known_tiles = tl.load(num_tiles)
    num_outs = known_tiles * num_blocks
    num_pieces = tl.num_programs(0) // tl.maximum(num_outs, 1)
    num_pieces = tl.minimum(tl.maximum(num_pieces, 1), num_groups)
    for work in range(tl.program_id(0), num_outs * num_pieces, tl.num_programs(0)):
        piece, here = work % num_pieces, work // num_pieces
        number, block = _place_of(here, known_tiles, num_blocks)
        first = tl.load(pairs.tiles + number * 3 + 1)
        end = tl.load(pairs.tiles + number * 3 + 2)
        places = first + tl.arange(0, sizes.tile_m)
        is_row = places < end
        total = _tile_total(
            Tile(
                x,
                x_rows(places, is_row, pairs),
                lines_of(block, sizes, gating),
                piece * num_groups // num_pieces,
                (piece + 1) * num_groups // num_pieces,
                exponents,
                sizes.num_columns,
                sizes.num_outputs,
                sizes.transposed,
            ),
            tl.load(pairs.tiles + number * 3),
            first,
            end,
            places,
            inner,
            pairs,
            parts,
        )
        is_last = True
        if num_pieces > 1:
            total, is_last = _joined(total, partials, arrivals, work, here, num_pieces)
        if is_last:
            _write(total, out, block, places, is_row, pairs, sizes, gating)


@triton.jit
def _tile_total(
    tile: Tile,
    lead: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    places: tl.tensor,
    inner: tl.tensor,
    pairs: Pairs,
    parts: Parts,
) -> tl.tensor:
    """The sum over all parts of the pairs in places [first, end). -> (N, M) float32"""
    total = tl.zeros((tile.lines.shape[0], places.shape[0]), tl.float32)
    first_rank = tl.load(pairs.rank_at + first)
    for rank in range(first_rank - 1, tl.load(pairs.rank_at + end - 1) + 1):
        part, last, begin, stop = range_of(rank, first_rank, lead, first, end, pairs, parts)
        for one in range(part, last):
            total = _add_part(total, tile, one, places, begin, stop, inner, pairs, parts)
    return total


@triton.jit
def _joined(
    total: tl.tensor,
    partials: tl.tensor,
    arrivals: tl.tensor,
    work: tl.tensor,
    here: tl.tensor,
    num_pieces: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """The sum of all pieces of a tile, if this is the last one to come, and whether it is."""
    size: tl.constexpr = total.shape[0] * total.shape[1]
    within = tl.arange(0, total.shape[0])[:, None] * total.shape[1]
    within += tl.arange(0, total.shape[1])[None, :]
    tl.store(partials + work * size + within, total)
    tl.debug_barrier()
    is_last = tl.atomic_add(arrivals + here, 1) == num_pieces - 1
    if is_last:
        total = tl.zeros((total.shape[0], total.shape[1]), tl.float32)
        for piece in range(num_pieces):
            at = partials + (here * num_pieces + piece) * size + within
            total += tl.load(at, cache_modifier=".cg")
        tl.store(arrivals + here, 0)
    return total, is_last
