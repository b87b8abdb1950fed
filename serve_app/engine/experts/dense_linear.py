"""Runs of dense parts: whole matrices, as the module has them."""

from dataclasses import dataclass

import torch

from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.laid import DenseMatrices
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.shelves import Pick, Shelf


@dataclass(frozen=True, slots=True)
class DenseRuns:
    """matrices: (P, O, I), or (P, I, O) where `transposed`"""

    matrices: torch.Tensor
    transposed: bool
    groups: Groups

    def product(self, multiplier: Multiplier, x: torch.Tensor) -> torch.Tensor:
        """See `Runs.product`."""
        return multiplier.grouped(x, self.matrices, self.groups, transposed=self.transposed)


def runs_of(pick: Pick, name: str) -> DenseRuns:
    """See `FormatFile`."""
    shelf = pick.shelf
    return DenseRuns(shelf.tensors[name], shelf.shape.expert.transposed, pick.groups)


def laid_of(shelf: Shelf, name: str, slots: Shelf | None) -> DenseMatrices:
    """See `FormatFile`."""
    matrices = shelf.tensors[name]
    return DenseMatrices(matrices.mT if shelf.shape.expert.transposed else matrices)
