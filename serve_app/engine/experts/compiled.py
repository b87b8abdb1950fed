"""All shelves of a layer, and both its matrices, in one compiled call, on x86 CPUs.

Each format's own file tells how its parts are stored; this file decides in how many bits x is
taken. If a shelf cannot be read this way, the plain products are used.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from representation.formats import DENSE
from serve_app.engine.device.laid import Gate, Matrix, Planes
from serve_app.engine.device.matmul import widens_on
from serve_app.engine.device.native.parts import (
    CompiledParts,
    LaidExperts,
    LaidShelves,
    reads,
)
from serve_app.engine.experts.gating import activated, first_matrix, gate_of
from serve_app.engine.experts.shelving import ShelfKey
from serve_app.engine.experts.together import Shelves, lay, meets_few_rows

TOP_BITS = 4
"""If an expert's sum of parts has more than this many bits, its upper bits meet x in 15 bits, and
the rest meets x in 8. A sum with no more bits meets x only in 8 bits, which adds 0.4 % to the error
that a sum of 4 bits has anyway."""

DENSE_ROWS, DENSE_ROWS_OF_DOTS = 16, 64
"""If all parts are dense and meet more rows than this on average, products shelf by shelf are
faster where torch has fast ones for bfloat16 (with AVX-512). The second: where this code, too, lets
the CPU multiply bfloat16."""


class CompiledExperts:
    """One layer's experts; see `Together`.

    uses_int8: whether x may be taken in 8 bits where that costs little; else always in 15.
    """

    can_be_captured = False

    def __init__(self, parts: CompiledParts, *, uses_int8: bool) -> None:
        self._parts = parts
        self._uses_int8 = uses_int8
        self._widens = widens_on(torch.device("cpu"))
        self._laid: dict[str, LaidShelves] | None = None
        self._experts: Any = None
        self._gate: Gate | None = None
        """That of `_experts`; None: torch computes what stands between and behind the products."""

    def forget(self) -> None:
        """See `Together`."""
        self._laid = None

    def reads(self, shelves: Shelves) -> bool:
        """See `Together`."""
        if self._laid is None:
            self._laid = self._lay(shelves)
        return bool(self._laid)

    def pays_off(self, shelves: Shelves, num_pairs: int, num_models: int) -> bool:
        """See `Together`."""
        if self._widens or any(key.format != DENSE for key in shelves):
            return True
        most = DENSE_ROWS_OF_DOTS if self._parts.has_dots else DENSE_ROWS
        return meets_few_rows(shelves, num_pairs, num_models, most)

    def forward(
        self,
        shelves: Shelves,
        experts: Any,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See `Together`."""
        assert self._laid is not None
        first, second = self._laid[first_matrix(experts)], self._laid["down_proj"]
        of_layer = next(iter(shelves.values())).shape
        shape = of_layer.expert
        num_outputs, num_neurons = shape.matrix("down_proj")
        x, entries = hidden.contiguous(), of_layer.entries(rows, index).flatten()  # (T, H), (T*K,)
        if self._experts is not experts:
            self._experts, self._gate = experts, gate_of(experts)
        if self._gate is not None:
            laid = LaidExperts(first, second, self._gate, num_neurons)
            own = weights if weights.dtype == x.dtype else weights.float()  # (T, K)
            return self._parts.experts(laid, entries, x, own)
        num_inner, _ = shape.matrix(first_matrix(experts))
        inner = activated(experts, self._parts.multiply(first, entries, x, num_inner))  # (T*K, N)
        found = self._parts.multiply(second, entries, inner.contiguous(), num_outputs)  # (T*K, H)
        found = found.view(*weights.shape, -1) * weights.unsqueeze(-1)  # (T, K, H)
        return found.sum(dim=1).to(hidden.dtype)

    def _lay(self, shelves: Shelves) -> dict[str, LaidShelves]:
        """By matrix; empty if a shelf cannot be read."""
        found = {}
        for name in next(iter(shelves.values())).shape.expert.matrices:
            laid = lay(shelves, name)
            if laid is None or not all(reads(one.matrix) for one in laid.values()):
                return {}
            matrices = {key: one.matrix for key, one in laid.items()}
            if self._uses_int8:
                matrices = _in_few_bits(matrices)
            found[name] = LaidShelves(
                [replace(one, matrix=matrices[key]) for key, one in laid.items()]
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
