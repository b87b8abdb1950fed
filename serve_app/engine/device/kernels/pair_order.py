"""Sorts the pairs of a token and an expert by what they are multiplied by. One launch, one program.

The host never learns the result: everything has the size of the most that there could be.
"""

import triton
import triton.language as tl


@triton.jit
def _rank_of(
    pairs: tl.tensor,
    is_pair: tl.tensor,
    rows: tl.tensor,
    index: tl.tensor,
    rank_of: tl.tensor,
    num_experts: tl.tensor,
    top_k: tl.constexpr,
) -> tl.tensor:
    row = tl.load(rows + pairs // top_k, is_pair, other=0)
    entry = row * num_experts + tl.load(index + pairs, is_pair, other=0)
    return tl.load(rank_of + entry, is_pair, other=0)


@triton.jit
def _cut(
    starts: tl.tensor,
    lead_starts: tl.tensor,
    tiles: tl.tensor,
    num_tiles: tl.tensor,
    num_leads: tl.tensor,
    tile_m: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Fills `tiles` and `num_tiles`; see `sort_pairs`."""
    lanes = tl.arange(0, block)
    before = 0
    for first in range(0, num_leads, block):
        leads = first + lanes
        is_lead = leads < num_leads
        begin = tl.load(starts + tl.load(lead_starts + leads, is_lead, other=0), is_lead, other=0)
        end = tl.load(starts + tl.load(lead_starts + leads + 1, is_lead, other=0), is_lead, other=0)
        counts = tl.cdiv(end - begin, tile_m)
        tile = before + tl.cumsum(counts, 0) - counts
        for step in range(tl.max(counts, 0)):
            is_tile = step < counts
            at = tiles + (tile + step) * 3
            tl.store(at, leads, is_tile)
            tl.store(at + 1, begin + step * tile_m, is_tile)
            tl.store(at + 2, tl.minimum(begin + (step + 1) * tile_m, end), is_tile)
        before += tl.sum(counts, 0)
    tl.store(num_tiles, before)


@triton.jit
def sort_pairs(
    rows: tl.tensor,
    index: tl.tensor,
    rank_of: tl.tensor,
    lead_starts: tl.tensor,
    cursors: tl.tensor,
    starts: tl.tensor,
    order: tl.tensor,
    rank_at: tl.tensor,
    tiles: tl.tensor,
    num_tiles: tl.tensor,
    num_pairs: tl.tensor,
    num_experts: tl.tensor,
    num_entries: tl.tensor,
    num_leads: tl.tensor,
    top_k: tl.constexpr,
    tile_m: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Pairs by rank, and tiles of at most `tile_m` pairs of one lead.

    rows: (T,), map row of each token   index: (T, K), its experts   rank_of: (R * E,) int32
    lead_starts: (L + 1,) int32, the first rank of each lead   cursors: (R * E,) int32, scratch
    Filled, all int32: starts (R * E + 1,), the first place of each rank; order (T * K,), the pair
    in each place; rank_at (T * K,), its rank; tiles (…, 3), of each: its lead, its first place and
    the place after its last; num_tiles (1,).
    Pairs of one rank are in any order, which changes no number: each is computed by itself.
    """
    lanes = tl.arange(0, block)
    for first in range(0, num_entries, block):
        tl.store(cursors + first + lanes, 0, first + lanes < num_entries)
    tl.debug_barrier()
    for first in range(0, num_pairs, block):
        pairs = first + lanes
        is_pair = pairs < num_pairs
        rank = _rank_of(pairs, is_pair, rows, index, rank_of, num_experts, top_k)
        tl.atomic_add(cursors + rank, 1, is_pair)
    tl.debug_barrier()
    before = 0
    for first in range(0, num_entries, block):
        ranks = first + lanes
        is_rank = ranks < num_entries
        counts = tl.load(cursors + ranks, is_rank, other=0, cache_modifier=".cg")
        places = before + tl.cumsum(counts, 0) - counts
        tl.store(starts + ranks, places, is_rank)
        tl.store(cursors + ranks, places, is_rank)
        before += tl.sum(counts, 0)
    tl.store(starts + num_entries, before)
    tl.debug_barrier()
    for first in range(0, num_pairs, block):
        pairs = first + lanes
        is_pair = pairs < num_pairs
        rank = _rank_of(pairs, is_pair, rows, index, rank_of, num_experts, top_k)
        place = tl.atomic_add(cursors + rank, 1, is_pair)
        tl.store(order + place, pairs, is_pair)
        tl.store(rank_at + place, rank, is_pair)
    _cut(starts, lead_starts, tiles, num_tiles, num_leads, tile_m, block)


@triton.jit
def add_experts(
    x: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    num_columns: tl.tensor,
    top_k: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """What each token's experts say, times their weights, added up.

    x: (T * K, H)   weights: (T, K)   out: (T, H), is filled
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    is_column = columns < num_columns
    total = tl.zeros((block,), tl.float32)
    for expert in range(top_k):
        pair = token * top_k + expert
        said = tl.load(x + pair * num_columns + columns, is_column, other=0).to(tl.float32)
        total += said * tl.load(weights + pair).to(tl.float32)
    tl.store(out + token * num_columns + columns, total.to(out.dtype.element_ty), is_column)
