"""Linear layers of experts that are sums of parts, by compiled code. Knows no formats by name."""

import ctypes
from collections.abc import Sequence

import torch

from serve_app.engine.device.laid import (
    ChangedMatrices,
    DenseMatrices,
    FactorPairs,
    LaidShelf,
    Matrix,
    Planes,
)
from serve_app.engine.device.native.library import Native

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
    """`Shelf` of `shelves.h`, field by field."""

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


class _PartsCall(ctypes.Structure):
    """`Call` of `shelves.h`, field by field."""

    _fields_ = (
        ("shelves", _Pointer),
        ("num_shelves", _Number),
        ("entries", _Pointer),
        ("num_pairs", _Number),
        ("pairs_of_row", _Number),
        ("x", _Pointer),
        ("num_columns", _Number),
        ("num_outputs", _Number),
        ("out", _Pointer),
        ("scratch", _Pointer),
        ("num_threads", _Number),
        ("has_vnni", _Number),
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


class CompiledParts:
    """The code of `parts.c`. Not for several threads at once: it has one scratch buffer."""

    def __init__(self, native: Native, *, vnni: bool | None = None) -> None:
        """vnni: whether to use these instructions; None: if available."""
        capabilities = torch.cpu.get_capabilities()
        self._has_vnni = all(map(capabilities.get, VNNI)) if vnni is None else vnni
        self._num_threads = native.num_threads
        self._call = native.library.expertpool_parts
        self._call.restype, self._call.argtypes = None, [_Pointer]
        self._scratch_size = native.library.expertpool_parts_scratch
        self._scratch_size.restype, self._scratch_size.argtypes = _Number, [_Pointer]
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def multiply(
        self, laid: LaidShelves, entries: torch.Tensor, x: torch.Tensor, num_outputs: int
    ) -> torch.Tensor:
        """For each pair of a row and an expert, the row times the sum of the expert's parts.

        entries: (n,) int64, of each pair: where its parts are found in the shelves' rows
        x: (m, I) bfloat16, contiguous; n / m pairs follow one another for each row
        ->  (n, O) bfloat16, summed in float32 and rounded once
        The numbers of a pair depend neither on other pairs nor on the threads.
        """
        num_pairs, num_rows = entries.shape[0], x.shape[0]
        out = x.new_empty((num_pairs, num_outputs))
        call = _PartsCall(
            ctypes.addressof(laid.array),
            len(laid.shelves),
            entries.data_ptr(),
            num_pairs,
            num_pairs // max(1, num_rows),
            x.data_ptr(),
            x.shape[1],
            num_outputs,
            out.data_ptr(),
            None,
            self._num_threads,
            self._has_vnni,
        )
        if num_pairs == 0:
            return out
        needed = self._scratch_size(ctypes.addressof(call))
        if needed > len(self._scratch):
            self._scratch = torch.empty(needed, dtype=torch.uint8)
        call.scratch = self._scratch.data_ptr()
        self._call(ctypes.addressof(call))
        return out


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
