"""Experts that are sums of parts, by compiled code. Knows no formats by name."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serve_app.engine.device.laid import (
    ChangedMatrices,
    DenseMatrices,
    FactorPairs,
    Gate,
    LaidShelf,
    Matrix,
    Planes,
)
from serve_app.engine.device.native.library import Native
from serve_app.engine.device.native.products import DOTS

MOST_PLANES = 4
VNNI = ("avx512_vl", "avx512_vnni")

_Number, _Pointer = ctypes.c_int64, ctypes.c_void_p
_DENSE, _PLANES, _FACTORS, _CHANGES = range(4)


class _CPlane(ctypes.Structure):
    _fields_ = (
        ("codes", _Pointer),
        ("width", _Number),
        ("shift", _Number),
        ("is_fine", _Number),
    )


class _CShelf(ctypes.Structure):
    """`Shelf` of `experts/shelves.h`, field by field."""

    _fields_ = (
        ("kind", _Number),
        ("map", _Pointer),
        ("num_parts", _Number),
        ("matrix", _Pointer),
        ("left", _Pointer),
        ("rank", _Number),
        ("planes", _CPlane * MOST_PLANES),
        ("num_planes", _Number),
        ("scales", _Pointer),
        ("bases", _Pointer),
        ("starts", _Pointer),
        ("gaps", _Pointer),
        ("bits", _Pointer),
        ("values", _Pointer),
        ("room", _Number),
        ("bias", _Pointer),
        ("wide_bias", _Pointer),
    )


class _CLinear(ctypes.Structure):
    """`Linear` of `experts/shelves.h`, field by field."""

    _fields_ = (
        ("shelves", _Pointer),
        ("num_shelves", _Number),
        ("num_columns", _Number),
        ("num_outputs", _Number),
    )


class _CGate(ctypes.Structure):
    """`Gate` of `experts/shelves.h`, field by field."""

    _fields_ = (
        ("limit", ctypes.c_double),
        ("slope", ctypes.c_double),
        ("shift", ctypes.c_double),
        ("by_turns", _Number),
    )


class _PartsCall(ctypes.Structure):
    """`Call` of `experts/shelves.h`, field by field."""

    _fields_ = (
        ("linears", _Pointer),
        ("num_linears", _Number),
        ("gate", _Pointer),
        ("entries", _Pointer),
        ("num_pairs", _Number),
        ("pairs_of_row", _Number),
        ("x", _Pointer),
        ("weights", _Pointer),
        ("has_wide_weights", _Number),
        ("out", _Pointer),
        ("scratch", _Pointer),
        ("scratch_size", _Number),
        ("num_threads", _Number),
        ("has_vnni", _Number),
        ("has_dots", _Number),
    )


def reads(matrix: Matrix) -> bool:
    """Whether the code can read these: in bfloat16, and line by line."""
    match matrix:
        case DenseMatrices(matrices) | ChangedMatrices(matrices=matrices):
            return matrices.dtype == torch.bfloat16 and matrices.is_contiguous()
        case FactorPairs(left, right):
            return left.dtype == torch.bfloat16 and left.is_contiguous() and right.is_contiguous()
        case Planes():
            return True


class LaidShelves:
    """Shelves as the code reads them. Holds their tensors, which must stay where they are."""

    def __init__(self, shelves: Sequence[LaidShelf]) -> None:
        self.shelves = shelves
        self.array = (_CShelf * len(shelves))(*map(_laid, shelves))


@dataclass(frozen=True, slots=True)
class LaidExperts:
    """A layer's experts. first: (P, 2N, H) each, through the gate   second: (P, H, N) each"""

    first: LaidShelves
    second: LaidShelves
    gate: Gate
    num_neurons: int


class CompiledParts:
    """The code of `parts.c`. Not for several threads at once: it has one scratch buffer.

    num_calls: how often the code was called.
    """

    def __init__(
        self, native: Native, *, vnni: bool | None = None, dots: bool | None = None
    ) -> None:
        """vnni, dots: whether to use these instructions, see `Products`; None: if available."""
        capabilities = torch.cpu.get_capabilities()
        self._has_vnni = all(map(capabilities.get, VNNI)) if vnni is None else vnni
        self.has_dots = all(map(capabilities.get, DOTS)) if dots is None else dots
        self._num_threads = native.num_threads
        self._call = native.library.expertpool_parts
        self._call.restype, self._call.argtypes = _Number, [_Pointer]
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self.num_calls = 0

    def multiply(
        self, laid: LaidShelves, entries: torch.Tensor, x: torch.Tensor, num_outputs: int
    ) -> torch.Tensor:
        """For each pair of a row and an expert, the row times the sum of the expert's parts.

        entries: (n,) int64, of each pair: where its parts are found in the shelves' rows
        x: (m, I) bfloat16, contiguous; n / m pairs follow one another for each row
        ->  (n, O) bfloat16, summed in float32 and rounded once
        The numbers of a pair depend neither on other pairs nor on the threads.
        """
        out = x.new_empty((entries.shape[0], num_outputs))
        linear = _linear(laid, x.shape[1], num_outputs)
        self._run((_CLinear * 1)(linear), None, entries, x, None, out)
        return out

    def experts(
        self, laid: LaidExperts, entries: torch.Tensor, x: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum of each row's experts.

        entries: (n,), x: (m, H), as for `multiply`   weights: (n,) bfloat16 or float32  ->  (m, H)
        Rounded to bfloat16 wherever modules in bfloat16 round.
        """
        out, num_columns = torch.empty_like(x), x.shape[1]
        linears = (_CLinear * 2)(
            _linear(laid.first, num_columns, 2 * laid.num_neurons),
            _linear(laid.second, laid.num_neurons, num_columns),
        )
        self._run(linears, laid.gate, entries, x, weights.contiguous(), out)
        return out

    def _run(
        self,
        linears: "ctypes.Array[_CLinear]",
        gate: Gate | None,
        entries: torch.Tensor,
        x: torch.Tensor,
        weights: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        num_pairs = entries.shape[0]
        if num_pairs == 0:
            return
        between = None if gate is None else _gate(gate)
        call = _PartsCall(
            ctypes.addressof(linears),
            len(linears),
            None if between is None else ctypes.addressof(between),
            entries.data_ptr(),
            num_pairs,
            num_pairs // x.shape[0],
            x.data_ptr(),
            None if weights is None else weights.data_ptr(),
            weights is not None and weights.dtype == torch.float32,
            out.data_ptr(),
            self._scratch.data_ptr(),
            len(self._scratch),
            self._num_threads,
            self._has_vnni,
            self.has_dots,
        )
        needed = self._called(call)
        if needed > len(self._scratch):
            self._scratch = torch.empty(needed, dtype=torch.uint8)
            call.scratch, call.scratch_size = self._scratch.data_ptr(), needed
            self._called(call)

    def _called(self, call: _PartsCall) -> int:
        """-> how large a scratch it needs; with a smaller one it did nothing"""
        self.num_calls += 1
        needed: int = self._call(ctypes.addressof(call))
        return needed


def _gate(gate: Gate) -> _CGate:
    return _CGate(gate.limit, gate.slope, gate.shift, gate.by_turns)


def _linear(laid: LaidShelves, num_columns: int, num_outputs: int) -> _CLinear:
    shelves = ctypes.addressof(laid.array)
    return _CLinear(shelves, len(laid.shelves), num_columns, num_outputs)


def _laid(shelf: LaidShelf) -> _CShelf:
    laid = _CShelf(map=shelf.rows.data_ptr())
    if shelf.bias is not None:
        wide = shelf.bias.dtype == torch.float32
        setattr(laid, "wide_bias" if wide else "bias", shelf.bias.data_ptr())
    match shelf.matrix:
        case DenseMatrices(matrices):
            laid.kind, laid.num_parts = _DENSE, matrices.shape[0]
            laid.matrix = matrices.data_ptr()
        case FactorPairs(left, right):
            laid.kind, laid.num_parts = _FACTORS, left.shape[0]
            laid.rank = left.shape[1]
            laid.left, laid.matrix = left.data_ptr(), right.data_ptr()
        case ChangedMatrices(matrices, bases, starts, values, gaps, bits):
            laid.kind, laid.num_parts = _CHANGES, starts.shape[0]
            laid.matrix, laid.bases = matrices.data_ptr(), bases.data_ptr()
            laid.starts, laid.values = starts.data_ptr(), values.data_ptr()
            laid.room = values.shape[1]
            laid.gaps = None if gaps is None else gaps.data_ptr()
            laid.bits = None if bits is None else bits.data_ptr()
        case Planes(planes, scales):
            laid.kind, laid.num_parts = _PLANES, scales.shape[0]
            laid.scales, laid.num_planes = scales.data_ptr(), len(planes)
            above = 0
            for place, plane in enumerate(planes):
                is_fine, shift = above < shelf.matrix.fine_bits, shelf.matrix.bits - above
                above += plane.width
                own = _CPlane(plane.codes.data_ptr(), plane.width, shift - plane.width, is_fine)
                laid.planes[place] = own
    return laid
