"""Runs of split parts: as those of packed ones; on CUDA each plane is a packed matrix by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from representation.formats import Packed, Split
from serve_app.engine.experts.packed_linear import PackedRuns, laid_of
from serve_app.engine.experts.shelves import Pick


@dataclass(frozen=True, slots=True)
class SplitRuns(PackedRuns):
    """See `PackedRuns`."""

    format: Split

    def kernel_terms(self) -> Iterator[tuple[Sequence[torch.Tensor], torch.Tensor, Packed]]:
        """See `PackedRuns.kernel_terms`. Scales times a power of two are exact in bfloat16."""
        fmt = self.format
        for plane, width, shift in zip(self.planes, fmt.widths, fmt.shifts, strict=True):
            yield [plane], self.scales * 2**shift, Packed(width, fmt.group)


def runs_of(pick: Pick, name: str) -> SplitRuns:
    """See `FormatFile`."""
    fmt, tensors = pick.shelf.key.format, pick.shelf.tensors
    assert isinstance(fmt, Split)
    planes = [tensors[plane] for plane in fmt.plane_names(name)]
    return SplitRuns(planes, tensors[f"{name}.scales"], fmt, pick.groups)


__all__ = ["SplitRuns", "laid_of", "runs_of"]
