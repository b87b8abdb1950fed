"""Sparse: positions and new values of the weights in which an expert differs from a dense slot.

A residual that replaces weights instead of adding to them, so the expert comes back to the bit. It
only fits the slot that it was made for. Positions are gaps or a bitmap, whichever is smaller.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from representation.formats.base import Format, Look, Tensors, TensorSpec
from representation.formats.shape import ExpertShape

OF = 1024
GAPS_BELOW = 128
"""From this share on, a bitmap (a bit per weight) is no larger than gaps (a byte per entry)."""
MAX_GAP = 255
SHARES = (
    *range(1, 8),
    *(step << octave for octave in range(1, 8) for step in (4, 5, 6, 7)),
)
"""The shares to use: few, so that parts share shelves, and at most a quarter too large."""


@dataclass(frozen=True, slots=True)
class Sparse(Format):
    """Room for new values of `share` in 1,024 weights of each matrix.

    `<p>.values` (n,) in the family's dtype, line after line, n = ⌈share · O · I / 1024⌉, padded
    with zeros; `<p>.starts` (O + 1,) int32, where the values of each line begin, and the last end.
    Below a share of 128, `<p>.gaps` (n,) uint8: how many weights are between an entry and the one
    before it in its line. Longer gaps have entries in between that repeat the slot's weights.
    From 128 on, `<p>.bits` (O, ⌈I / 8⌉) uint8, the first column in the lowest bit.
    """

    share: int

    kind: ClassVar[str] = "sparse"
    spelling: ClassVar[str] = "sparse-<share>"
    residual: ClassVar[Look | None] = Look("changed weights", "grey")
    replaces: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.share <= OF:
            raise ValueError(f"format {str(self)!r}: a share is 1 to {OF}, of {OF}")

    @classmethod
    def smallest(cls, changes: list["Changes"]) -> "Sparse | None":
        """The smallest format with room for these changes; None if there is none."""
        with_gaps = _share(max(one.num_entries / one.num_weights for one in changes))
        if with_gaps is not None and with_gaps < GAPS_BELOW:
            return cls(with_gaps)
        share = _share(max(one.num_changed / one.num_weights for one in changes))
        return None if share is None else cls(max(share, GAPS_BELOW))

    @property
    def has_gaps(self) -> bool:
        """Whether positions are gaps; else they are a bitmap."""
        return self.share < GAPS_BELOW

    def room(self, shape: ExpertShape, name: str) -> int:
        """How many entries a matrix has room for."""
        return math.ceil(self.share * math.prod(shape.matrix(name)) / OF)

    def matrix_specs(
        self, shape: ExpertShape, name: str, dtype: torch.dtype
    ) -> dict[str, TensorSpec]:
        """See `Format.matrix_specs`."""
        num_outputs, num_columns = shape.matrix(name)
        room = self.room(shape, name)
        positions: dict[str, TensorSpec] = {f"{name}.gaps": ((room,), torch.uint8)}
        if not self.has_gaps:
            size = (num_outputs, math.ceil(num_columns / 8))
            positions = {f"{name}.bits": (size, torch.uint8)}
        return positions | {
            f"{name}.starts": ((num_outputs + 1,), torch.int32),
            f"{name}.values": ((room,), dtype),
        }

    def encode(self, expert: Tensors, slot: Tensors, shape: ExpertShape) -> dict[str, torch.Tensor]:
        """The tensors of a part. Both experts as their module has them, in the family's dtype.

        Raises `ValueError` if more weights differ than there is room for.
        """
        found = {name: expert[name] for name in shape.vectors}
        for name in shape.matrices:
            one, other = (e[name].T if shape.transposed else e[name] for e in (expert, slot))
            lines, columns = changed(one, other).nonzero(as_tuple=True)
            if self.has_gaps:
                lines, columns, gaps = _with_fillers(lines, columns)
                found[f"{name}.gaps"] = _filled(gaps, self.room(shape, name), name)
            else:
                found[f"{name}.bits"] = _bitmap(lines, columns, one.shape)
            counts = torch.bincount(lines, minlength=one.shape[0])
            found[f"{name}.starts"] = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
            values = one[lines, columns]
            found[f"{name}.values"] = _filled(values, self.room(shape, name), name)
        return found

    def decode(self, tensors: Tensors, name: str, shape: ExpertShape) -> torch.Tensor:
        """The new values, and zeros elsewhere. -> (O, I) float32"""
        zeros = tensors[f"{name}.values"].new_zeros(shape.matrix(name), dtype=torch.float32)
        return self.onto(zeros, tensors, name, shape)

    def onto(
        self, total: torch.Tensor, tensors: Tensors, name: str, shape: ExpertShape
    ) -> torch.Tensor:
        """See `Format.onto`: replaces weights."""
        return self.replaced(total, tensors, name, 0)

    def vector_onto(self, total: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """See `Format.vector_onto`: the expert's own."""
        return vector

    def vector_dtype(self, dtype: torch.dtype, *, residual: bool) -> torch.dtype:
        """See `Format.vector_dtype`: as they are."""
        return dtype

    def replaced(
        self, block: torch.Tensor, tensors: Tensors, name: str, first: int
    ) -> torch.Tensor:
        """A copy of some lines of a matrix, with the new values in place.

        block: (L, I) the slot's lines from `first` on   tensors: of one part  ->  (L, I)
        On CUDA the host never waits: entries of other lines are written where they are cut off.
        """
        num_lines, num_columns = block.shape
        starts = tensors[f"{name}.starts"][first : first + num_lines + 1].long()  # (L + 1,)
        values = tensors[f"{name}.values"].to(block.dtype)  # (n,)
        if not self.has_gaps:
            bits = tensors[f"{name}.bits"][first : first + num_lines]  # (L, ceil(I / 8))
            places = torch.arange(8, dtype=torch.uint8, device=bits.device)
            mask = ((bits.unsqueeze(-1) >> places) & 1).flatten(1)[:, :num_columns].bool()  # (L, I)
            entries = mask.cumsum(1) + (starts[:-1, None] - 1)  # (L, I)
            return torch.where(mask, values[entries.clamp(0, len(values) - 1)], block)
        window = min(len(values), block.numel())
        if starts.device.type == "cpu":
            window = int(starts[-1] - starts[0])
        entries = starts[0] + torch.arange(window, device=starts.device)  # (w,)
        lines = torch.searchsorted(starts, entries, right=True) - 1  # (w,)
        known = entries.clamp(max=len(values) - 1)
        steps = tensors[f"{name}.gaps"][known].long() + 1  # (w,)
        ends = steps.cumsum(0)  # (w,), of the columns of all lines in a row
        begins = (starts[lines.clamp(max=num_lines - 1)] - starts[0]).clamp(max=max(0, window - 1))
        columns = ends - ends[begins] + steps[begins] - 1  # (w,)
        places = lines * num_columns + columns
        places = torch.where(entries < starts[-1], places, block.numel())
        flat = torch.cat([block.reshape(-1), block.new_empty(1)])  # (L * I + 1,)
        flat[places] = values[known]
        return flat[:-1].view(num_lines, num_columns)

    def operations(self, num_outputs: int, num_columns: int) -> int:
        """See `Format.operations`: as the slot's."""
        return 2 * num_outputs * num_columns

    def short(self, dtype: torch.dtype) -> str:
        """See `Format.short`."""
        return f"s{max(1, round(100 * self.share / OF))}%"

    def words(self, dtype: torch.dtype) -> str:
        """See `Format.words`."""
        how = "gaps" if self.has_gaps else "a bitmap"
        return f"up to {100 * self.share / OF:.1f} % of the weights, by {how}"


@dataclass(frozen=True, slots=True)
class Changes:
    """How many weights of a matrix are new, and how many entries they take as gaps.

    Where a bitmap takes less, the entries are not counted: there are as many at least.
    """

    num_weights: int
    num_changed: int
    num_entries: int

    @classmethod
    def between(cls, one: torch.Tensor, other: torch.Tensor) -> "Changes":
        """Of two matrices (O, I) of one dtype."""
        mask = changed(one, other)
        num_changed = int(mask.count_nonzero())
        if num_changed * OF >= GAPS_BELOW * mask.numel():
            return cls(mask.numel(), num_changed, num_changed)
        lines, columns = mask.nonzero(as_tuple=True)
        num_fillers = int(_num_fillers(lines, columns).sum())
        return cls(mask.numel(), num_changed, num_changed + num_fillers)


def changed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Where two tensors of one dtype differ in any bit. -> bool, of their shape"""
    whole = {2: torch.int16, 4: torch.int32}[one.dtype.itemsize]
    return one.contiguous().view(whole) != other.contiguous().view(whole)


def _share(part: float) -> int | None:
    return next((share for share in SHARES if share >= part * OF), None)


def _steps(lines: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Columns from each entry back to the one before it in its line, or to the line's beginning."""
    steps = columns.diff(prepend=columns.new_full((1,), -1))
    is_first = lines.diff(prepend=lines.new_full((1,), -1)) != 0
    return torch.where(is_first, columns + 1, steps)


def _num_fillers(lines: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Entries that must stand before each of these, so that no gap is too long."""
    return (_steps(lines, columns) - 1) // (MAX_GAP + 1)


def _with_fillers(
    lines: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All entries: lines, columns and gaps, in order. (c,), (c,)  ->  (n,), (n,), (n,)"""
    counts = _num_fillers(lines, columns) + 1  # (c,)
    before = columns - _steps(lines, columns)  # (c,), the column after which each gap begins
    last = counts.cumsum(0) - 1  # (c,), where the entries themselves go
    number = torch.arange(int(counts.sum()), device=counts.device)
    number -= (last + 1 - counts).repeat_interleave(counts)
    filled = before.repeat_interleave(counts) + (MAX_GAP + 1) * (number + 1)
    filled[last] = columns
    all_lines = lines.repeat_interleave(counts)
    return all_lines, filled, (_steps(all_lines, filled) - 1).to(torch.uint8)


def _bitmap(lines: torch.Tensor, columns: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """-> (O, ceil(I / 8)) uint8"""
    mask = torch.zeros(size[0], math.ceil(size[1] / 8) * 8, dtype=torch.uint8, device=lines.device)
    mask[lines, columns] = 1
    weights = torch.tensor(
        [1 << place for place in range(8)], dtype=torch.uint8, device=lines.device
    )
    found: torch.Tensor = (mask.unflatten(1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)
    return found


def _filled(entries: torch.Tensor, room: int, name: str) -> torch.Tensor:
    if len(entries) > room:
        raise ValueError(f"{name}: {len(entries)} entries, but room for {room}")
    return torch.nn.functional.pad(entries, (0, room - len(entries)))
