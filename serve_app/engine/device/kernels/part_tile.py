"""What kernels know of a tile of outputs and the parts that are summed there. Adds up nothing."""

from typing import NamedTuple

import triton
import triton.language as tl

from serve_app.engine.device.kernels import part_tables

PLANES, DENSE = tl.constexpr(part_tables.PLANES), tl.constexpr(part_tables.DENSE)
CHANGES, FACTORS = tl.constexpr(part_tables.CHANGES), tl.constexpr(part_tables.FACTORS)
FIELDS = tl.constexpr(part_tables.FIELDS)


class Tile(NamedTuple):
    """N lines (outputs) by M rows (pairs); its total is (N, M) float32.

    x: (…, I)   x_rows: (M,), which of them   lines: (N,)
    first, end: the groups of 128 columns to take   exponents: see `code_numbers.py`
    I, O, transposed: of all matrices, which are (I, O) if they are transposed, else (O, I)
    """

    x: tl.tensor
    x_rows: tl.tensor
    lines: tl.tensor
    first: tl.tensor
    end: tl.tensor
    exponents: tl.tensor
    num_columns: tl.constexpr
    num_outputs: tl.constexpr
    transposed: tl.constexpr


class Plane(NamedTuple):
    """Some bits of every code of a part. codes: (O, words) int32   scales: (O, G) bfloat16

    shift: of the bits in every byte, if there are 4 of 8   factor: of the scales
    """

    codes: tl.tensor
    scales: tl.tensor
    shift: tl.tensor
    factor: tl.tensor
    width: tl.constexpr


class Pairs(NamedTuple):
    """The pairs of a step, sorted. See `sort_pairs`."""

    order: tl.tensor
    rank_at: tl.tensor
    starts: tl.tensor
    tiles: tl.tensor
    top_k: tl.constexpr
    gathers: tl.constexpr


class Parts(NamedTuple):
    """Which parts there are, and where. See `PartTables`."""

    parts: tl.tensor
    part_starts: tl.tensor
    shelves: tl.tensor
    kinds: tl.constexpr
    widths: tl.constexpr
    num_inner: tl.tensor


@triton.jit
def pointer_at(field: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """Where a tensor begins, as a shelf's line of the table says: at a multiple of 16 bytes."""
    return tl.multiple_of(tl.load(field).to(kind), 16)


@triton.jit
def shelf_of(part: tl.tensor, parts: Parts) -> tl.tensor:
    """The line of a part's shelf in the table. part: its own line"""
    return parts.shelves + tl.load(parts.parts + part * 3) * FIELDS


@triton.jit
def range_of(
    rank: tl.tensor,
    first_rank: tl.tensor,
    lead: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    pairs: Pairs,
    parts: Parts,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Which parts a rank adds to the tile of places [first, end), and to which of them.

    Before the first rank it is the lead, for all.   ->  a part, the last + 1, a place, the last + 1
    """
    is_lead = rank < first_rank
    known = tl.maximum(rank, 0)
    begin = tl.maximum(first, tl.load(pairs.starts + known))
    stop = tl.minimum(end, tl.load(pairs.starts + known + 1))
    part = tl.load(parts.part_starts + known)
    last = tl.where(begin < stop, tl.load(parts.part_starts + known + 1), part)
    part, last = tl.where(is_lead, lead, part), tl.where(is_lead, lead + 1, last)
    begin, stop = tl.where(is_lead, first, begin), tl.where(is_lead, end, stop)
    return part, last, begin, stop


@triton.jit
def x_rows(places: tl.tensor, is_row: tl.tensor, pairs: Pairs) -> tl.tensor:
    """The row of x of each place: of its token if x is to be gathered, else its own. int64"""
    rows = places
    if pairs.gathers:
        rows = tl.load(pairs.order + places, is_row, other=0) // pairs.top_k
    return rows.to(tl.int64)
