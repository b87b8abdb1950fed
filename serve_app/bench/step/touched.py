"""Records which rows of the pool a step touches. Changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from serve_app.engine.experts.pool import PoolLayer
from serve_app.engine.experts.shelving import DENSE_SLOTS, NO_PART, ShelfKey


@dataclass(frozen=True, slots=True)
class ShelfUse:
    """num_rows: touched rows of a shelf.   num_pairs: of token and expert, on these rows."""

    num_rows: int
    num_pairs: int


Routing = Sequence[Mapping[ShelfKey, ShelfUse]]
"""What a step used of each layer's shelves."""


class RoutingWatch:
    """Give it to `PackedModel.watching` for one step."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[PoolLayer, list[tuple[torch.Tensor, torch.Tensor]]]] = {}

    def __call__(self, layer: PoolLayer, rows: torch.Tensor, experts: torch.Tensor) -> None:
        """rows: (T,), map row of each token   experts: (T, K)"""
        _, calls = self._seen.setdefault(id(layer), (layer, []))
        calls.append((rows.clone(), experts.long().clone()))

    def routing(self) -> Routing:
        """Per layer, in the order in which the layers were first called."""
        return [_uses(layer, calls) for layer, calls in self._seen.values()]


def _uses(
    layer: PoolLayer, calls: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> dict[ShelfKey, ShelfUse]:
    def used(maps: torch.Tensor) -> torch.Tensor:
        parts = torch.cat([maps[rows.unsqueeze(1), experts].flatten() for rows, experts in calls])
        return parts[parts != NO_PART]

    found = {}
    shelves = layer.shelves.items()
    bases = [used(shelf.bases) for _, shelf in shelves if shelf.bases is not None]
    for key, shelf in shelves:
        parts = used(shelf.maps)
        read = torch.cat([parts, *bases]) if key == DENSE_SLOTS else parts
        if len(read):
            found[key] = ShelfUse(len(read.unique()), len(parts))
    return found
