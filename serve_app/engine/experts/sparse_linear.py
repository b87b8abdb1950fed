"""Runs of sparse parts: lines of dense slots with new values in place, block by block."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from representation.formats import Sparse
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.laid import ChangedMatrices
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts import runs
from serve_app.engine.experts.shelves import Pick, Shelf

VALUES_SHARE = 4
"""A block has this part of other formats' values: finding places takes so many times the memory."""


@dataclass(frozen=True, slots=True)
class SparseRuns:
    """tensors: the shelf's, (P, …) each, of the matrix `name`
    slots: (S, O, I), or (S, I, O) where `transposed`
    bases: (m,), the row of each pair's slot; the same within a group
    """

    tensors: Mapping[str, torch.Tensor]
    name: str
    format: Sparse
    slots: torch.Tensor
    transposed: bool
    bases: torch.Tensor
    groups: Groups

    def product(self, multiplier: Multiplier, x: torch.Tensor) -> torch.Tensor:
        """See `Runs.product`. Makes each matrix a block of lines at a time, and never keeps it."""
        matrices = self.slots.mT if self.transposed else self.slots  # (S, O, I)
        num_outputs, num_columns = matrices.shape[1:]
        num_lines = max(1, runs.BLOCK_VALUES // VALUES_SHARE // num_columns)
        if self.groups.runs is None:
            return self._by_every_part(multiplier, x, matrices, num_lines)
        out = x.new_empty((x.shape[0], num_outputs))
        with multiplier.all_cores():
            for part, start, end in self.groups.runs:
                slot = matrices[self.bases[start]]  # (O, I)
                group = Groups.counted([end - start])
                for lines in runs.blocks(num_outputs, num_lines):
                    block = self._block(part, slot[lines], lines)  # (L, I)
                    weight = block.t().contiguous() if self.transposed else block
                    out[start:end, lines] = multiplier.grouped(
                        x[start:end], weight.unsqueeze(0), group, transposed=self.transposed
                    )
        return out

    def _by_every_part(
        self, multiplier: Multiplier, x: torch.Tensor, matrices: torch.Tensor, num_lines: int
    ) -> torch.Tensor:
        """matrices: (S, O, I)"""
        ends = self.groups.ends
        assert ends is not None
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])  # (P,)
        # For a part without rows, any slot will do.
        bases = self.bases[starts.long().clamp(max=x.shape[0] - 1)].clamp(min=0)  # (P,)

        def make(part: int, lines: slice) -> torch.Tensor:
            slot = matrices[:, lines].index_select(0, bases[part : part + 1])[0]
            return self._block(part, slot, lines)

        return runs.by_every_part(multiplier, x, ends, matrices.shape[1], num_lines, make)

    def _block(self, part: int, slot: torch.Tensor, lines: slice) -> torch.Tensor:
        """Lines of a part's matrix. slot: (L, I), those of its slot  ->  (L, I)"""
        return self.format.replaced(slot, self._of(part), self.name, lines.start)

    def _of(self, part: int) -> dict[str, torch.Tensor]:
        return {name: tensor[part] for name, tensor in self.tensors.items()}


def runs_of(pick: Pick, name: str) -> SparseRuns:
    """See `FormatFile.runs_of`."""
    shelf, base = pick.shelf, pick.base
    assert base is not None
    assert isinstance(shelf.key.format, Sparse)
    own = {tensor: slab for tensor, slab in shelf.tensors.items() if tensor.startswith(f"{name}.")}
    return SparseRuns(
        tensors=own,
        name=name,
        format=shelf.key.format,
        slots=base.shelf.tensors[name],
        transposed=shelf.shape.expert.transposed,
        bases=base.rows,
        groups=pick.groups,
    )


def laid_of(shelf: Shelf, name: str, slots: Shelf | None) -> ChangedMatrices | None:
    """See `FormatFile.laid_of`."""
    tensors = shelf.tensors
    assert shelf.bases is not None
    if slots is None:
        return None
    matrices = slots.tensors[name]
    return ChangedMatrices(
        matrices.mT if shelf.shape.expert.transposed else matrices,
        shelf.bases,
        tensors[f"{name}.starts"],
        tensors[f"{name}.values"],
        tensors.get(f"{name}.gaps"),
        tensors.get(f"{name}.bits"),
    )
