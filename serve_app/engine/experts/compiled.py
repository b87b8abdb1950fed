"""All shelves of a layer in one compiled call for each of its matrices, on x86 CPUs.

Each format's own file tells how its parts are stored; this file decides in how many bits x is
taken. If a shelf cannot be read this way, the plain products are used.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from representation.formats import DENSE
from serve_app.engine.device.laid import LaidShelf, Matrix, Planes
from serve_app.engine.device.native.parts import CompiledParts, LaidShelves, reads
from serve_app.engine.experts.runs import laid_of
from serve_app.engine.experts.shelves import Shelf
from serve_app.engine.experts.shelving import DENSE_SLOTS, ShelfKey

TOP_BITS = 4
"""If an expert's sum of parts has more than this many bits, its upper bits meet x in 15 bits, and
the rest meets x in 8. A sum with no more bits meets x only in 8 bits, which adds 0.4 % to the error
that a sum of 4 bits has anyway."""

Shelves = Mapping[ShelfKey, Shelf]


class CompiledExperts:
    """One layer's linear layers. Not for several threads at once.

    uses_int8: whether x may be taken in 8 bits where that costs little; else always in 15.
    """

    def __init__(self, parts: CompiledParts, *, uses_int8: bool) -> None:
        self._parts = parts
        self._uses_int8 = uses_int8
        self._laid: dict[str, LaidShelves] | None = None

    def forget(self) -> None:
        """Call it when shelves or their maps have moved."""
        self._laid = None

    def reads(self, shelves: Shelves) -> bool:
        """Whether the code can multiply by the parts on these shelves, and pays off.

        If all parts are dense, the products for backbones are as fast, and read each row once.
        """
        if self._laid is None:
            self._laid = self._lay(shelves)
        return bool(self._laid)

    def linear(
        self, shelves: Shelves, name: str, entries: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        """Each pair's row times the matrix `name` of the pair's expert. Only what it `reads`.

        entries: (n,), where a pair's parts are found in the maps, flattened
        x: (m, I), n / m pairs for each row in order  ->  (n, O)
        """
        assert self._laid is not None
        num_outputs, _ = next(iter(shelves.values())).shape.expert.matrix(name)
        return self._parts.multiply(self._laid[name], entries, x.contiguous(), num_outputs)

    def _lay(self, shelves: Shelves) -> dict[str, LaidShelves]:
        """By matrix; empty if a shelf cannot be read."""
        found = {}
        if all(key.format == DENSE for key in shelves):
            return {}
        for name in next(iter(shelves.values())).shape.expert.matrices:
            held = {key: shelf for key, shelf in shelves.items() if key.holds(name)}
            matrices = {}
            for key, shelf in held.items():
                matrix = laid_of(shelf, name, shelves.get(DENSE_SLOTS))
                if matrix is None or not reads(matrix):
                    return {}
                matrices[key] = matrix
            if self._uses_int8:
                matrices = _in_few_bits(matrices)
            found[name] = LaidShelves(
                [
                    LaidShelf(shelf.maps, matrices[key], shelf.tensors.get(f"{name}_bias"))
                    for key, shelf in held.items()
                ]
            )
        return found


def _in_few_bits(matrices: Mapping[ShelfKey, Matrix]) -> dict[ShelfKey, Matrix]:
    """The same, x in 15 bits only where it meets the top bits of experts' sums."""
    slots = [one for key, one in matrices.items() if not key.residual]
    least = min(one.bits if isinstance(one, Planes) else TOP_BITS for one in slots)
    packed = {key: one for key, one in matrices.items() if isinstance(one, Planes)}
    most = sum(
        max((one.bits for key, one in packed.items() if key.residual is residual), default=0)
        for residual in (False, True)
    )
    found = dict(matrices)
    for key, one in packed.items():
        bits = max(0, TOP_BITS - least) if key.residual else TOP_BITS
        found[key] = replace(one, fine_bits=bits if most > TOP_BITS else 0)
    return found
