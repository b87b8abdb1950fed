"""Runs of sparse parts: lines of dense slots with new values in place, block by block."""

from collections.abc import Iterator, Mapping
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
        """See `Runs.product`. Makes each matrix a block of lines at a time, and never keeps it.

        On the CPU, each block is multiplied like a dense one. On CUDA, every row is multiplied by
        every part, because the host does not know which rows belong to which: right, but slow.
        """
        matrices = self.slots.transpose(-2, -1) if self.transposed else self.slots  # (S, O, I)
        if self.groups.runs is None:
            return self._for_all_rows(multiplier, x, matrices)
        out = x.new_empty((x.shape[0], matrices.shape[1]))
        with multiplier.all_cores():
            for part, start, end in self.groups.runs:
                slot = matrices[self.bases[start]]  # (O, I)
                group = Groups.counted([end - start])
                for lines, block in self._blocks(part, slot):
                    weight = block.t().contiguous() if self.transposed else block
                    out[start:end, lines] = multiplier.grouped(
                        x[start:end], weight.unsqueeze(0), group, transposed=self.transposed
                    )
        return out

    def _for_all_rows(
        self, multiplier: Multiplier, x: torch.Tensor, matrices: torch.Tensor
    ) -> torch.Tensor:
        ends = self.groups.ends
        assert ends is not None
        out = x.new_zeros((x.shape[0], matrices.shape[1]))
        rows = torch.arange(x.shape[0], device=x.device)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])  # (P,)
        # For a part without rows, any slot will do.
        bases = self.bases[starts.long().clamp(max=x.shape[0] - 1)].clamp(min=0)  # (P,)
        for part in range(len(ends)):
            is_own = ((rows >= starts[part]) & (rows < ends[part])).unsqueeze(1)  # (m, 1)
            for lines in self._lines(matrices):
                slot = matrices[:, lines].index_select(0, bases[part : part + 1])[0]
                block = self.format.replaced(slot, self._of(part), self.name, lines.start)
                found = multiplier.linear(x, block)  # (m, L)
                out[:, lines] = torch.where(is_own, found, out[:, lines])
        return out

    def _blocks(self, part: int, slot: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Blocks of a part's matrix, (L, I) each. slot: (O, I)"""
        for lines in self._lines(slot):
            block = self.format.replaced(slot[lines], self._of(part), self.name, lines.start)
            yield lines, block

    def _lines(self, matrices: torch.Tensor) -> Iterator[slice]:
        """matrices: (…, O, I)"""
        num_outputs, num_columns = matrices.shape[-2:]
        at_once = max(1, runs.BLOCK_VALUES // VALUES_SHARE // num_columns)
        for first in range(0, num_outputs, at_once):
            yield slice(first, min(first + at_once, num_outputs))

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
