"""Runs of packed parts: planes of codes and their scales. Never unpacks a whole shelf."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from representation.formats import Packed
from representation.formats.codes import dequantise
from serve_app.engine.device.grouped import Groups, Run
from serve_app.engine.device.laid import GROUP, Plane, Planes
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts import runs
from serve_app.engine.experts.shelves import Pick, Shelf


@dataclass(frozen=True, slots=True)
class PackedRuns:
    """planes: (P, O, ceil(I * width / 8)) uint8, the most significant first   scales: (P, O, G)"""

    planes: Sequence[torch.Tensor]
    scales: torch.Tensor
    format: Packed
    groups: Groups

    def product(self, multiplier: Multiplier, x: torch.Tensor) -> torch.Tensor:
        """See `Runs.product`.

        The matrices in use are unpacked block by block: on the CPU in float32; on CUDA, where the
        host does not know which are in use, all of them.
        """
        if self.groups.runs is None:
            return self._by_every_part(multiplier, x)
        with multiplier.all_cores():
            return self._unpacked(multiplier, x, self.groups.runs)

    def _by_every_part(self, multiplier: Multiplier, x: torch.Tensor) -> torch.Tensor:
        ends, num_columns = self.groups.ends, x.shape[1]
        assert ends is not None

        def make(part: int, lines: slice) -> torch.Tensor:
            planes = [plane[part, lines] for plane in self.planes]
            return dequantise(
                planes, self.scales[part, lines], self.format, num_columns, dtype=x.dtype
            )

        num_lines = max(1, runs.BLOCK_VALUES // num_columns)
        return runs.by_every_part(multiplier, x, ends, self.scales.shape[1], num_lines, make)

    def _unpacked(
        self, multiplier: Multiplier, x: torch.Tensor, all_runs: Sequence[Run]
    ) -> torch.Tensor:
        """On the CPU; as `product`."""
        num_columns, num_outputs = x.shape[1], self.scales.shape[1]
        wide = x.float()
        out = wide.new_empty((x.shape[0], num_outputs))
        num_matrices = max(1, runs.BLOCK_VALUES // (num_outputs * num_columns))
        num_lines = max(1, runs.BLOCK_VALUES // num_columns)
        for first in range(0, len(all_runs), num_matrices):
            some = all_runs[first : first + num_matrices]
            used = torch.tensor([matrix for matrix, _, _ in some])
            start, end = some[0][1], some[-1][2]
            block = Groups.counted(end - start for _, start, end in some)
            for lines in runs.blocks(num_outputs, num_lines):
                values = dequantise(
                    [plane[used, lines] for plane in self.planes],
                    self.scales[used, lines],
                    self.format,
                    num_columns,
                )  # (matrices, lines, I)
                out[start:end, lines] = multiplier.grouped(wide[start:end], values, block)
        return out.to(x.dtype)


def runs_of(pick: Pick, name: str) -> PackedRuns:
    """See `FormatFile`."""
    fmt, tensors = pick.shelf.key.format, pick.shelf.tensors
    assert isinstance(fmt, Packed)
    planes = [tensors[plane] for plane in fmt.plane_names(name)]
    return PackedRuns(planes, tensors[f"{name}.scales"], fmt, pick.groups)


def laid_of(shelf: Shelf, name: str, slots: Shelf | None) -> Planes | None:
    """See `FormatFile`. Only in groups of as many columns as the code knows."""
    fmt, tensors = shelf.key.format, shelf.tensors
    assert isinstance(fmt, Packed)
    if fmt.group != GROUP:
        return None
    named = zip(fmt.plane_names(name), fmt.widths, strict=True)
    planes = [Plane(tensors[plane], width) for plane, width in named]
    return Planes(planes, tensors[f"{name}.scales"], fmt.bits)
