"""All shelves of a layer in a few launches, on CUDA, however many formats they have.

Each format's own file tells how its parts are stored. If a shelf cannot be read this way, the plain
products are used.
"""

from typing import Any

import torch

from representation.formats import DENSE
from serve_app.engine.device.kernels.part_launches import PartLaunches
from serve_app.engine.device.kernels.part_tables import PartTables, reads, tables_of
from serve_app.engine.device.laid import Gate, LaidShelf
from serve_app.engine.experts.gating import activated, first_matrix, gate_of
from serve_app.engine.experts.together import Shelves, lay, meets_few_rows

DENSE_ROWS = 16
"""If all parts are dense and meet more rows than this on average, torch's grouped product, made for
many rows, is used."""


class LaunchedExperts:
    """One layer's experts; see `Together`. launches: may be those of other layers too."""

    can_be_captured = True

    def __init__(self, launches: PartLaunches) -> None:
        self._launches = launches
        self._tables: dict[str, PartTables] | None = None
        self._experts: Any = None
        self._gate: Gate | None = None
        """That of `_experts`; None: torch computes what stands between the products."""

    def forget(self) -> None:
        """See `Together`."""
        self._tables = None

    def reads(self, shelves: Shelves) -> bool:
        """See `Together`. Waits for the device after shelves or maps have moved."""
        if self._tables is None:
            self._tables = _tables(shelves)
        return bool(self._tables)

    def pays_off(self, shelves: Shelves, num_pairs: int, num_models: int) -> bool:
        """See `Together`."""
        if any(key.format != DENSE for key in shelves):
            return True
        return meets_few_rows(shelves, num_pairs, num_models, DENSE_ROWS)

    def forward(
        self,
        shelves: Shelves,
        experts: Any,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """See `Together`. At most six launches, and what the module's own activation takes."""
        assert self._tables is not None
        launches, shape = self._launches, next(iter(shelves.values())).shape.expert
        name = first_matrix(experts)
        first, second = self._tables[name], self._tables["down_proj"]
        if self._experts is not experts:
            self._experts, self._gate = experts, gate_of(experts)
        pairs = launches.sort(first, rows, index)
        x = launches.multiply(
            first, pairs, hidden, shape.matrix(name)[0], gathers=True, gate=self._gate
        )  # (T*K, N), or (T*K, 2N) without a gate of the kernel
        if self._gate is None:
            x = activated(experts, x).to(hidden.dtype)  # (T*K, N)
        num_outputs, _ = shape.matrix("down_proj")
        x = launches.multiply(second, pairs, x, num_outputs, gathers=False)  # (T*K, H)
        return launches.add(x, weights)  # (T, H)


def _tables(shelves: Shelves) -> dict[str, PartTables]:
    """By matrix; empty if a shelf cannot be read."""
    found: list[list[LaidShelf]] = []
    shape = next(iter(shelves.values())).shape.expert
    for name in shape.matrices:
        laid = lay(shelves, name)
        num_columns = shape.matrix(name)[1]
        if laid is None or not all(reads(one.matrix, num_columns) for one in laid.values()):
            return {}
        found.append(list(laid.values()))
    return dict(zip(shape.matrices, tables_of(found), strict=True))
