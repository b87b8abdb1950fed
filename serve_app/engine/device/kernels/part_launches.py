"""Launches the kernels for a layer's experts. The host never waits, and sizes depend on no data."""

import math
from dataclasses import dataclass

import torch
import triton

from serve_app.engine.device.kernels.code_numbers import EXPONENTS
from serve_app.engine.device.kernels.pair_order import add_experts, sort_pairs
from serve_app.engine.device.kernels.part_inner import inner_products
from serve_app.engine.device.kernels.part_products import part_products
from serve_app.engine.device.kernels.part_tables import FACTORS, PartTables
from serve_app.engine.device.laid import Gate

FEW, MANY = 16, 64
"""Pairs of a tile: if there are few for each lead, and if there are many."""
MANY_PAIRS = 32
"""Pairs for each lead from which larger tiles pay."""
TILE_LINES = 64
SORT_BLOCK = 1024
ADD_BLOCK = 512
STAGES = {FEW: 4, MANY: 3}
"""How many groups of columns are being copied at a time; shared memory limits larger tiles."""
PROGRAMS = 2
"""Programs that a processor of the device runs at a time."""


@dataclass(frozen=True, slots=True)
class SortedPairs:
    """The pairs of a step as `sort_pairs` leaves them. top_k: pairs of a token"""

    order: torch.Tensor
    rank_at: torch.Tensor
    starts: torch.Tensor
    tiles: torch.Tensor
    num_tiles: torch.Tensor
    top_k: int
    tile_m: int

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """In the order of the kernels' arguments."""
        return self.order, self.rank_at, self.starts, self.tiles, self.num_tiles


class PartLaunches:
    """One device's launches. Not for several streams at once: they share a workspace.

    num_programs: how many run together; None: as many as the device has room for.
    """

    def __init__(self, device: torch.device, num_programs: int | None = None) -> None:
        if num_programs is None:
            properties = torch.cuda.get_device_properties(device)
            num_programs = PROGRAMS * properties.multi_processor_count
        self._num_programs = num_programs
        tiles = (num_programs, TILE_LINES, MANY)
        self._partials = torch.empty(tiles, dtype=torch.float32, device=device)
        self._arrivals = torch.zeros(num_programs, dtype=torch.int32, device=device)

    def sort(self, tables: PartTables, rows: torch.Tensor, index: torch.Tensor) -> SortedPairs:
        """Sorts the pairs of a step, for all matrices of a layer.

        rows: (T,) int64, map row of each token   index: (T, K) int64, its experts
        """
        num_pairs, top_k = index.numel(), index.shape[1]
        num_leads, num_entries = tables.num_leads, tables.num_entries
        tile_m = MANY if num_pairs >= MANY_PAIRS * num_leads else FEW
        most = min(num_pairs, num_leads) + num_pairs // tile_m

        def new(*size: int) -> torch.Tensor:
            return index.new_empty(size, dtype=torch.int32)

        found = SortedPairs(
            new(num_pairs),
            new(num_pairs),
            new(num_entries + 1),
            new(most, 3),
            new(1),
            top_k,
            tile_m,
        )
        sort_pairs[(1,)](
            rows,
            index.contiguous(),
            tables.rank_of,
            tables.lead_starts,
            new(num_entries),
            found.starts,
            found.order,
            found.rank_at,
            found.tiles,
            found.num_tiles,
            num_pairs,
            tables.num_experts,
            num_entries,
            num_leads,
            top_k=top_k,
            tile_m=tile_m,
            block=SORT_BLOCK,
            num_warps=8,
        )
        return found

    def multiply(
        self,
        tables: PartTables,
        pairs: SortedPairs,
        x: torch.Tensor,
        num_outputs: int,
        *,
        gathers: bool,
        gate: Gate | None = None,
    ) -> torch.Tensor:
        """Each pair's row of x times the sum of its parts, added up in float32 and rounded once.

        x: (T, I) if it `gathers`, else (T * K, I), in the order of the pairs as sorted
        ->  (T * K, O), sorted if it `gathers`, else in their own order; through a
        gate, (T * K, O / 2)
        """
        x = x.contiguous()
        num_pairs, num_columns = pairs.order.shape[0], x.shape[1]
        inner = x.new_empty((num_pairs, tables.num_inner))
        sizes = {
            "num_inner": tables.num_inner,
            "num_columns": num_columns,
            "gathers": gathers,
            "top_k": pairs.top_k,
            "tile_m": pairs.tile_m,
        }
        places = (tables.parts, tables.part_starts, tables.shelves)
        if tables.kinds & FACTORS:
            inner_products[(self._num_programs,)](
                x, inner, *pairs.tensors, *places, largest_rank=tables.largest_rank, **sizes
            )
        out = x.new_empty((num_pairs, num_outputs // 2 if gate else num_outputs))
        part_products[(self._num_programs,)](
            x,
            out,
            inner,
            *pairs.tensors,
            *places,
            self._partials,
            self._arrivals,
            EXPONENTS,
            kinds=tables.kinds,
            widths=tables.widths,
            num_outputs=num_outputs,
            transposed=tables.transposed,
            tile_n=TILE_LINES,
            **_gating(gate),
            **sizes,
            num_stages=1 if x.dtype == torch.float32 else STAGES[pairs.tile_m],
        )
        return out

    def add(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x: (T * K, H)   weights: (T, K)  ->  (T, H), each token's rows times their weights"""
        num_tokens, top_k = weights.shape
        out = x.new_empty((num_tokens, x.shape[1]))
        grid = (num_tokens, triton.cdiv(x.shape[1], ADD_BLOCK))
        add_experts[grid](x, weights.contiguous(), out, x.shape[1], top_k=top_k, block=ADD_BLOCK)
        return out


def _gating(gate: Gate | None) -> dict[str, bool | float]:
    """As the kernel takes it."""
    if gate is None:
        return {"is_gated": False, "by_turns": False, "limit": 0.0, "slope": 0.0, "shift": 0.0}
    return {
        "is_gated": True,
        "by_turns": gate.by_turns,
        "limit": 0.0 if math.isinf(gate.limit) else gate.limit,
        "slope": gate.slope,
        "shift": gate.shift,
    }
