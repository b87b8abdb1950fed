"""Tables on the device that tell kernels which parts an expert has and where they are.

Made when shelves or maps have changed, not in a step. Knows no formats by name; launches nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serve_app.engine.device.laid import (
    ChangedMatrices,
    DenseMatrices,
    FactorPairs,
    LaidShelf,
    Matrix,
    Planes,
)

PLANES, DENSE, CHANGES, FACTORS = (1 << bit for bit in range(4))
"""Kinds of shelves; powers of two, so a set of them is a number. 0 is for entries without parts."""
HEAD = 3
"""Fields of every shelf: its kind, its bias, and whether that is in float32."""
PLANE_FIELDS = 4
"""Of each plane: its codes, its width, how far to shift its bytes, and the exponent of its scale"""
FIELDS = 17
"""Of a shelf: `HEAD`; of planes, their number, their scales, and up to three of them."""
WORD_COLUMNS = 32
"""Lines of so many columns, or a multiple, are whole words in every plane."""


@dataclass(frozen=True, slots=True)
class PartTables:
    """One matrix of all parts of a layer, for kernels. Entries: (model, expert), E a model.

    Entries with the same first parts (their lead) are neighbours in the order of ranks.
    rank_of: (R * E,) int32   lead_starts: (L + 1,) int32, the first rank of each lead
    parts: (L + F, 3) int32: shelf, row, and the row that it stands on: of leads, then of what
    entries have beside, by rank   part_starts: (R * E + 1,) int32, where those of each rank begin
    shelves: (S + 1, FIELDS) int64, the last for entries without parts
    kinds, widths: those that there are, as sums   num_inner: columns for inner products of factors
    transposed: whether whole matrices lie column by column
    laid: held so that their tensors stay where they are
    """

    rank_of: torch.Tensor
    lead_starts: torch.Tensor
    parts: torch.Tensor
    part_starts: torch.Tensor
    shelves: torch.Tensor
    kinds: int
    widths: int
    num_inner: int
    largest_rank: int
    transposed: bool
    laid: tuple[LaidShelf, ...]

    @property
    def num_leads(self) -> int:
        return self.lead_starts.shape[0] - 1

    @property
    def num_entries(self) -> int:
        return self.rank_of.shape[0]

    @property
    def num_experts(self) -> int:
        """Of a model."""
        return self.laid[0].rows.shape[-1]


def reads(matrix: Matrix, num_columns: int) -> bool:
    """Whether the kernels can read these: codes word by word."""
    return not isinstance(matrix, Planes) or num_columns % WORD_COLUMNS == 0


def tables_of(matrices: Sequence[Sequence[LaidShelf]]) -> list[PartTables]:
    """The tables of each matrix of a layer, by the shelves that hold it. Waits for the device.

    All have one order of entries: of neighbours, the first part is the same in each matrix.
    """
    device = matrices[0][0].rows.device
    places = [_places(shelves) for shelves in matrices]
    rank_of, order, lead_starts = _order(places)
    found = []
    for shelves, place in zip(matrices, places, strict=True):
        laid = [shelf.matrix for shelf in shelves]
        ranks = [m.left.shape[1] if isinstance(m, FactorPairs) else 0 for m in laid]
        parts, part_starts = _parts(place, order, lead_starts)
        found.append(
            PartTables(
                rank_of.int().to(device),
                lead_starts.int().to(device),
                parts.int().to(device),
                part_starts.int().to(device),
                _shelf_table(shelves, ranks).to(device),
                kinds=sum({_kind(matrix) for matrix in laid}),
                widths=sum({p.width for m in laid if isinstance(m, Planes) for p in m.planes}),
                num_inner=sum(ranks),
                largest_rank=max(ranks),
                transposed=any(map(_is_transposed, laid)),
                laid=tuple(shelves),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the parts of each entry are, for one matrix. The last of the shelves has all.

    rows, bases: (S + 1, R * E), the row on each shelf, or -1, and that which it stands on
    first: (R * E,), the first shelf of each entry
    """

    rows: torch.Tensor
    bases: torch.Tensor
    first: torch.Tensor

    def of_first(self, entries: torch.Tensor) -> torch.Tensor:
        """Shelf, row and base of the first part of these entries. (n,) -> (n, 3)"""
        shelves = self.first[entries]
        return torch.stack([shelves, self.rows[shelves, entries], self.bases[shelves, entries]], 1)


def _places(shelves: Sequence[LaidShelf]) -> _Places:
    rows = torch.stack([shelf.rows.flatten() for shelf in shelves]).cpu()  # (S, R * E)
    bases = torch.stack([_bases(shelf) for shelf in shelves])  # (S, R * E)
    rows = torch.cat([rows, torch.zeros_like(rows[:1])])
    bases = torch.cat([bases, torch.zeros_like(bases[:1])])
    return _Places(rows, bases, (rows >= 0).int().argmax(0))


def _order(matrices: Sequence[_Places]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`rank_of`, the entry of each rank (R * E,), and `lead_starts`: see `PartTables`."""
    every = torch.arange(matrices[0].rows.shape[1])
    firsts = torch.cat([place.of_first(every)[:, :2] for place in matrices], 1)  # (R * E, 2M)
    lead = torch.unique(firsts, dim=0, return_inverse=True)[1]  # (R * E,)
    order = torch.argsort(lead, stable=True)
    counts = torch.bincount(lead)  # (L,)
    return torch.argsort(order), order, torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _parts(
    place: _Places, order: torch.Tensor, lead_starts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`parts` and `part_starts` of `PartTables`."""
    of_leads = place.of_first(order[lead_starts[:-1]])  # (L, 3)
    beside = place.rows[:-1] >= 0  # (S, R * E)
    beside = beside & (torch.arange(len(beside))[:, None] != place.first)
    ranks, others = beside[:, order].t().nonzero(as_tuple=True)  # (F,), (F,): by rank, then shelf
    entries = order[ranks]
    found = [others, place.rows[others, entries], place.bases[others, entries]]
    num_each = torch.bincount(ranks, minlength=len(order))
    part_starts = torch.nn.functional.pad(num_each.cumsum(0), (1, 0)) + len(of_leads)
    return torch.cat([of_leads, torch.stack(found, 1)]), part_starts  # (L + F, 3), (R * E + 1,)


def _is_transposed(matrix: Matrix) -> bool:
    match matrix:
        case DenseMatrices(matrices) | ChangedMatrices(matrices=matrices):
            return not matrices.is_contiguous()
    return False


def _bases(shelf: LaidShelf) -> torch.Tensor:
    """The row that each entry's part stands on. -> (R * E,)"""
    if isinstance(shelf.matrix, ChangedMatrices):
        return shelf.matrix.bases.flatten().cpu()
    return torch.zeros(shelf.rows.numel(), dtype=torch.int64)


def _shelf_table(shelves: Sequence[LaidShelf], ranks: Sequence[int]) -> torch.Tensor:
    """See `PartTables.shelves`."""
    table = torch.zeros((len(shelves) + 1, FIELDS), dtype=torch.int64)
    inner = 0
    for line, shelf, rank in zip(table, shelves, ranks, strict=False):
        fields = [_kind(shelf.matrix), 0, 0]
        if shelf.bias is not None:
            fields[1:] = shelf.bias.data_ptr(), shelf.bias.dtype == torch.float32
        fields += _fields(shelf.matrix, inner)
        line[: len(fields)] = torch.tensor(fields)
        inner += rank
    return table


def _kind(matrix: Matrix) -> int:
    match matrix:
        case Planes():
            return PLANES
        case DenseMatrices():
            return DENSE
        case ChangedMatrices():
            return CHANGES
        case FactorPairs():
            return FACTORS


def _fields(matrix: Matrix, inner: int) -> list[int]:
    """What is in a shelf's line of the table behind `HEAD`, as `part_products.py` reads it.

    inner: the shelf's first column among all inner products
    """
    match matrix:
        case DenseMatrices(matrices):
            return [matrices.data_ptr()]
        case FactorPairs(left, right):
            return [left.data_ptr(), right.data_ptr(), left.shape[1], inner]
        case ChangedMatrices(matrices, _, starts, values, gaps, bits):
            places = [0 if one is None else one.data_ptr() for one in (gaps, bits)]
            tensors = [matrices.data_ptr(), starts.data_ptr(), values.data_ptr(), values.shape[1]]
            return tensors + places
        case Planes(planes, scales):
            units: list[int] = []
            exponent = matrix.bits
            for plane in planes:
                exponent -= plane.width
                shifts = (4, 0) if plane.width == 8 else (0,)
                for shift in shifts:
                    units += [plane.codes.data_ptr(), plane.width, shift, exponent + shift]
            return [len(units) // PLANE_FIELDS, scales.data_ptr(), *units]
