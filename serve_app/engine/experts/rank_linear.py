"""Runs of low-rank parts: two factors, one product after the other."""

from dataclasses import dataclass

import torch

from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.laid import FactorPairs
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.shelves import Pick, Shelf


@dataclass(frozen=True, slots=True)
class RankRuns:
    """left: (P, O, r)   right: (P, r, I)"""

    left: torch.Tensor
    right: torch.Tensor
    groups: Groups

    def product(self, multiplier: Multiplier, x: torch.Tensor) -> torch.Tensor:
        """See `Runs.product`."""
        inner = multiplier.grouped(x, self.right, self.groups)  # (m, r)
        return multiplier.grouped(inner, self.left, self.groups)  # (m, O)


def runs_of(pick: Pick, name: str) -> RankRuns:
    """See `FormatFile`."""
    tensors = pick.shelf.tensors
    return RankRuns(tensors[f"{name}.left"], tensors[f"{name}.right"], pick.groups)


def laid_of(shelf: Shelf, name: str, slots: Shelf | None) -> FactorPairs:
    """See `FormatFile`."""
    left, right = shelf.tensors[f"{name}.left"], shelf.tensors[f"{name}.right"]
    return FactorPairs(left.mT, right)
