"""How the parts of a layer's experts are stored, as plain values. Knows no formats by name.

Compiled code takes these: `native/parts.py` on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

GROUP = 128
"""Columns that share a scale; so in `native/c/experts/planes.h`."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Some bits of every code. codes: (P, O, ceil(I * width / 8)) uint8   width: 1, 2, 4 or 8"""

    codes: torch.Tensor
    width: int


@dataclass(frozen=True, slots=True)
class Planes:
    """Packed matrices. scales: (P, O, ceil(I / GROUP)) bfloat16

    planes: the most significant first.   fine_bits: the upper bits, which meet x in 15 bits; the
    planes below them meet x in 8.
    """

    planes: Sequence[Plane]
    scales: torch.Tensor
    fine_bits: int

    @property
    def bits(self) -> int:
        return sum(plane.width for plane in self.planes)


@dataclass(frozen=True, slots=True)
class DenseMatrices:
    """Whole matrices. matrices: (P, O, I), line by line or column by column"""

    matrices: torch.Tensor


@dataclass(frozen=True, slots=True)
class FactorPairs:
    """Products of two. left: (P, r, O), column by column   right: (P, r, I)"""

    left: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True, slots=True)
class ChangedMatrices:
    """Whole matrices with new values in some places. bases: (…) int64, the matrix of each entry

    matrices: (Q, O, I), line by line or column by column
    starts: (P, O + 1) int32   values: (P, n)
    gaps: (P, n) uint8, or None   bits: (P, O, ceil(I / 8)) uint8, or None
    See `representation.formats.sparse`, whose tensors these are.
    """

    matrices: torch.Tensor
    bases: torch.Tensor
    starts: torch.Tensor
    values: torch.Tensor
    gaps: torch.Tensor | None
    bits: torch.Tensor | None


Matrix = Planes | DenseMatrices | FactorPairs | ChangedMatrices


@dataclass(frozen=True, slots=True)
class LaidShelf:
    """One matrix of P parts, in the family's dtype. Tensors are contiguous unless said otherwise.

    rows: (…) int64, the part of each entry, or -1   bias: (P, O), or in float32
    """

    rows: torch.Tensor
    matrix: Matrix
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """Gates that compiled code has: with g = min(gate, limit) and u = up within ± limit,
    (u + shift) · g / (1 + exp(-slope · g)).

    by_turns: whether the columns of gate and up take turns; else all gates come first.
    """

    limit: float
    slope: float
    shift: float
    by_turns: bool
