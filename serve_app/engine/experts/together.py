"""All shelves of a layer at once: what a form does that computes them together.

There is one for each device: `compiled.py` on x86 CPUs, `launched.py` on CUDA. The plain form,
shelf by shelf, is in `pool.py`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from serve_app.engine.device.laid import LaidShelf
from serve_app.engine.experts.runs import laid_of
from serve_app.engine.experts.shelves import Shelf
from serve_app.engine.experts.shelving import DENSE_SLOTS, ShelfKey, num_slots

Shelves = Mapping[ShelfKey, Shelf]


class Together(Protocol):
    """One layer's experts. Not for several threads at once.

    can_be_captured: whether a captured step may hold what it does.
    """

    can_be_captured: bool

    def forget(self) -> None:
        """Call it when shelves or their maps have moved."""
        ...

    def reads(self, shelves: Shelves) -> bool:
        """Whether it can multiply by the parts on these shelves."""
        ...

    def pays_off(self, shelves: Shelves, num_pairs: int, num_models: int) -> bool:
        """Whether it is at least as fast as products shelf by shelf, for this many pairs of a token
        and an expert of this many models.
        """
        ...

    def forward(
        self,
        shelves: Shelves,
        experts: Any,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """The weighted sum of each token's experts. Only what it `reads`.

        hidden: (T, H)   rows: (T,) int64, map row of each token   index: (T, K), its experts
        weights: (T, K)  ->  (T, H)
        """
        ...


def meets_few_rows(shelves: Shelves, num_pairs: int, num_models: int, most: int) -> bool:
    """Whether each slot of a layer of dense slots alone meets at most so many rows on average."""
    num_experts = next(iter(shelves.values())).shape.num_experts
    there = num_slots({key: shelf.num_rows for key, shelf in shelves.items()})
    return num_pairs <= most * min(there, num_models * num_experts)


def lay(shelves: Shelves, name: str) -> dict[ShelfKey, LaidShelf] | None:
    """How the parts of matrix `name` are stored; None if a format has parts that only it reads."""
    found = {}
    for key, shelf in shelves.items():
        if not key.holds(name):
            continue
        matrix = laid_of(shelf, name, shelves.get(DENSE_SLOTS))
        if matrix is None:
            return None
        found[key] = LaidShelf(shelf.maps, matrix, shelf.tensors.get(f"{name}_bias"))
    return found
