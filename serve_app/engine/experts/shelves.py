"""A shelf: a layer's parts of one format, stacked, and the map of each model into them.

Decides nothing: `scheduling.ledgers` counts which rows are free, and who uses them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from representation.architecture.experts import ExpertsModule
from representation.formats import ExpertShape, TensorSpec
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.pages import with_rows, zeros
from serve_app.engine.experts.shelving import NO_PART, ShelfKey, ShelfMap, ShelfRows
from serve_app.errors import BadRelease

MAP_DTYPE = torch.int64


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Shapes of one expert of a layer, and how many experts a model has there."""

    expert: ExpertShape
    num_experts: int

    @classmethod
    def of(cls, experts: ExpertsModule) -> "LayerShape":
        """That of an experts module."""
        return cls(experts.shape, experts.num_experts)

    def entries(self, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Where each pair's parts are found in the maps, flattened.

        rows: (T,), map row of each token   index: (T, K), its experts  ->  (T, K)
        """
        return rows.unsqueeze(1) * self.num_experts + index.long()

    def part_bytes(self, key: ShelfKey, dtype: torch.dtype) -> int:
        """Bytes of one row of a shelf on the device."""
        shape = self.expert.only(key.matrices)
        return key.format.num_bytes(shape, dtype, residual=key.residual)

    def shelves_bytes(self, rows: ShelfRows, num_models: int, dtype: torch.dtype) -> int:
        """Bytes of shelves with that many rows, including maps for that many models."""
        parts = sum(count * self.part_bytes(key, dtype) for key, count in rows.items())
        return parts + sum(map(num_maps, rows)) * self.maps_bytes(num_models)

    def maps_bytes(self, num_models: int) -> int:
        """Bytes of one map for each model."""
        return num_models * self.num_experts * MAP_DTYPE.itemsize


def num_maps(key: ShelfKey) -> int:
    """How many maps a shelf has: into it, and into the dense one if its parts replace weights."""
    return 2 if key.format.replaces else 1


@dataclass(frozen=True, slots=True)
class Base:
    """What replacing parts stand on. rows: (m,) int64, the dense row of each pair."""

    shelf: "Shelf"
    rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class Pick:
    """The pairs of token and expert in a step that have a part on a shelf, sorted by its row.

    pairs: (m,) int64, which of the n pairs they are; None: all n, in their own order.
    rows: (m,) int64, ascending.   groups: the pairs by row.
    padded: pairs without a part are included, after the others and with row P. So m is n, and the
    host need not know how many have a part.
    base: if the parts replace weights of dense slots.
    """

    shelf: "Shelf"
    pairs: torch.Tensor | None
    rows: torch.Tensor
    groups: Groups
    padded: bool = False
    base: Base | None = None


class Shelf:
    """Rows of parts in one format, each tensor of a part stacked, and the maps into them.

    tensors: name -> (P, *shape), P rows.
    maps: (R, E) int64, the row of each expert of the model in map row r; -1 if it has no part.
    bases: (R, E) int64, the dense row that such a part stands on; None if parts are added.
    """

    def __init__(
        self,
        key: ShelfKey,
        shape: LayerShape,
        *,
        num_rows: int,
        num_map_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.key = key
        self.shape = shape
        self.num_rows = num_rows
        self._device = device
        own = shape.expert.only(key.matrices)
        self._specs = key.format.tensor_specs(own, dtype, residual=key.residual)
        self.tensors = {name: self._slab(name, num_rows) for name in self._specs}
        maps = (num_map_rows, shape.num_experts)
        self.maps = torch.full(maps, NO_PART, dtype=MAP_DTYPE, device=device)
        self.bases = self.maps.clone() if key.format.replaces else None
        self._num_parts: dict[int, int] = {}

    @property
    def num_bytes(self) -> int:
        parts = sum(tensor.nbytes for tensor in self.tensors.values())
        return num_maps(self.key) * self.maps.nbytes + parts

    def write(self, row: int, tensors: Mapping[str, torch.Tensor], source: str) -> None:
        """Copy a part's tensors into a row. `source` names the part in errors.

        Raises: BadRelease, with nothing copied, if names, shapes or kinds of number differ.
        """
        got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        if _kinds(got) != _kinds(self._specs):
            raise BadRelease(f"{source}: holds {_listed(got)}, not {_listed(self._specs)}")
        for name, tensor in tensors.items():
            self.tensors[name][row].copy_(tensor)

    def set_map(self, row: int, found: ShelfMap) -> None:
        """Point map row `row` at rows of parts. Grows the maps if needed."""
        self.maps = self._with_row(self.maps, row, found.parts)
        if self.bases is not None:
            self.bases = self._with_row(self.bases, row, found.bases)
        self._num_parts[row] = sum(part != NO_PART for part in found.parts)

    def _with_row(self, maps: torch.Tensor, row: int, parts: Sequence[int]) -> torch.Tensor:
        missing = row + 1 - maps.shape[0]
        if missing > 0:
            maps = torch.cat([maps, maps.new_full((missing, maps.shape[1]), NO_PART)])
        maps[row] = torch.tensor(parts, dtype=MAP_DTYPE, device=self._device)
        return maps

    def grow(self, num_rows: int) -> None:
        """Make room for more parts; existing parts keep their rows.

        On the CPU nothing is copied until there are twice as many rows: steps wait meanwhile.
        """
        for name, tensor in self.tensors.items():
            longer = with_rows(tensor, num_rows)
            if longer is None:
                longer = self._slab(name, num_rows)
                longer[: self.num_rows].copy_(tensor)
            self.tensors[name] = longer
        self.num_rows = num_rows

    def forget_row(self, row: int) -> None:
        """Forget the model of a map row, which has no more tokens."""
        self._num_parts.pop(row, None)

    def serves(self, models: Collection[int] | None) -> bool:
        """Whether an expert of any of these models (map rows) has a part here. None: all models."""
        models = self._num_parts if models is None else models
        return any(self._num_parts.get(row) for row in models)

    def serves_all(self, models: Collection[int] | None) -> bool:
        """Whether every expert of all these models has a part here. None: all models."""
        models = self._num_parts if models is None else models
        return all(self._num_parts.get(row) == self.shape.num_experts for row in models)

    def pick_all(
        self, entries: torch.Tensor, slots: "Shelf | None", *, counts: bool
    ) -> tuple[Pick, torch.Tensor]:
        """All pairs, if each has a part here, and the order that sorts them by row.

        entries: (n,), where a pair's part is found in the maps, flattened
        slots: the dense shelf   counts: whether the host may count them  ->  order: (n,)
        """
        rows, order = torch.sort(self.maps.view(-1).index_select(0, entries), stable=True)
        base = self._base(entries, order, slots)
        return Pick(self, None, rows, self._groups(rows, counts=counts), base=base), order

    def pick_some(self, entries: torch.Tensor, slots: "Shelf | None", *, counts: bool) -> Pick:
        """The pairs that have a part here.

        entries: (n,), where a pair's part is found in the maps, flattened
        slots: the dense shelf
        counts: whether the host may count them; else all are there, padded.
        """
        rows = self.maps.view(-1)[entries]
        absent = rows == NO_PART
        if not counts:
            rows, pairs = torch.sort(rows.masked_fill(absent, self.num_rows), stable=True)
            groups, base = self._groups(rows, counts=counts), self._base(entries, pairs, slots)
            return Pick(self, pairs, rows, groups, padded=True, base=base)
        present = (~absent).nonzero().squeeze(1)
        rows, order = torch.sort(rows[present], stable=True)
        pairs = present[order]
        base = self._base(entries, pairs, slots)
        return Pick(self, pairs, rows, self._groups(rows, counts=counts), base=base)

    def _base(
        self, entries: torch.Tensor, pairs: torch.Tensor, slots: "Shelf | None"
    ) -> Base | None:
        """entries: (n,)   pairs: (m,), which of them"""
        if self.bases is None:
            return None
        assert slots is not None, "parts that replace weights stand on dense slots"
        return Base(slots, self.bases.view(-1)[entries[pairs]])

    def _groups(self, rows: torch.Tensor, *, counts: bool) -> Groups:
        """rows: (m,), ascending"""
        if counts:
            return Groups.counted(torch.bincount(rows).tolist())
        numbers = torch.arange(self.num_rows, device=rows.device)
        return Groups(ends=torch.searchsorted(rows, numbers, right=True, out_int32=True))

    def _slab(self, name: str, num_rows: int) -> torch.Tensor:
        """Zeros for a tensor of that many parts. -> (num_rows, *size)"""
        size, dtype = self._specs[name]
        by_columns = self.key.format.lies_by_columns(name)
        laid = size[::-1] if by_columns else size
        slab = zeros((num_rows, *laid), dtype=dtype, device=self._device, grows=True)
        return slab.transpose(-2, -1) if by_columns else slab


def _kinds(tensors: Mapping[str, TensorSpec]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shapes, and whether it holds fractions, which may be converted; packed codes never are."""
    return {name: (size, dtype.is_floating_point) for name, (size, dtype) in tensors.items()}


def _listed(tensors: Mapping[str, TensorSpec]) -> str:
    return ", ".join(
        f"{name} {size}" + ("" if dtype.is_floating_point else f" {dtype}".replace("torch.", ""))
        for name, (size, dtype) in sorted(tensors.items())
    )
