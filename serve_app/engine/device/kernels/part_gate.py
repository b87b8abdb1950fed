"""Gates between an expert's matrices, and which lines of the first matrix a tile has for them."""

from typing import NamedTuple

import triton
import triton.language as tl


class Gating(NamedTuple):
    """See `laid.Gate`; limit: 0 if there is none."""

    is_on: tl.constexpr
    by_turns: tl.constexpr
    limit: tl.constexpr
    slope: tl.constexpr
    shift: tl.constexpr


class Sizes(NamedTuple):
    """Of a product and of its tiles. See `part_products`."""

    num_columns: tl.constexpr
    num_outputs: tl.constexpr
    transposed: tl.constexpr
    tile_m: tl.constexpr
    tile_n: tl.constexpr


@triton.jit
def lines_of(block: tl.tensor, sizes: Sizes, gating: Gating) -> tl.tensor:
    """The lines of a block. If gated, gates and what goes through them take turns."""
    lane = tl.arange(0, sizes.tile_n)
    if gating.is_on and not gating.by_turns:
        half: tl.constexpr = sizes.num_outputs // 2
        neuron = tl.minimum(block * (sizes.tile_n // 2) + lane // 2, half - 1)
        lines = neuron + lane % 2 * half
    else:
        lines = tl.minimum(block * sizes.tile_n + lane, sizes.num_outputs - 1)
    return lines


@triton.jit
def gated(total: tl.tensor, sizes: Sizes, gating: Gating) -> tl.tensor:
    """(N, M)  ->  (N / 2, M)"""
    both = tl.reshape(total, (sizes.tile_n // 2, 2, sizes.tile_m))
    gate, up = tl.split(tl.permute(both, (0, 2, 1)))
    if gating.limit > 0:
        gate = tl.minimum(gate, gating.limit)
        up = tl.minimum(tl.maximum(up, -gating.limit), gating.limit)
    return (up + gating.shift) * gate * tl.sigmoid(gating.slope * gate)
