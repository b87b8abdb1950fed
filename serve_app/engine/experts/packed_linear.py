"""Runs of packed parts: planes of codes and their scales. Never unpacks a whole shelf."""

import functools
from collections.abc import Iterator, Sequence
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

        On CUDA a kernel reads the bits, and rows after the last group are zero. On the CPU, the
        matrices in use are unpacked block by block, in float32.
        """
        if self.groups.runs is None:
            return self._by_kernel(x)
        with multiplier.all_cores():
            return self._unpacked(multiplier, x, self.groups.runs)

    def _by_kernel(self, x: torch.Tensor) -> torch.Tensor:
        from serve_app.engine.experts.packed_kernel import packed_linear_kernel

        ends = self.groups.ends
        assert ends is not None
        terms = [packed_linear_kernel(x, *term, ends) for term in self.kernel_terms()]
        return functools.reduce(torch.add, terms)

    def kernel_terms(self) -> Iterator[tuple[Sequence[torch.Tensor], torch.Tensor, Packed]]:
        """Planes, scales and formats of the packed matrices that add up to these."""
        yield self.planes, self.scales, self.format

    def _unpacked(
        self, multiplier: Multiplier, x: torch.Tensor, all_runs: Sequence[Run]
    ) -> torch.Tensor:
        """On the CPU; as `product`."""
        num_columns, num_outputs = x.shape[1], self.scales.shape[1]
        wide = x.float()
        out = wide.new_empty((x.shape[0], num_outputs))
        num_matrices = max(1, runs.BLOCK_VALUES // (num_outputs * num_columns))
        num_lines = min(num_outputs, max(1, runs.BLOCK_VALUES // num_columns))
        for first in range(0, len(all_runs), num_matrices):
            some = all_runs[first : first + num_matrices]
            used = torch.tensor([matrix for matrix, _, _ in some])
            start, end = some[0][1], some[-1][2]
            block = Groups.counted(end - start for _, start, end in some)
            for top in range(0, num_outputs, num_lines):
                lines = slice(top, top + num_lines)
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
