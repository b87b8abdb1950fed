"""How matrices are multiplied on a device: the only place that knows which way is fast there."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch.nn import functional as F

from serve_app.engine.device.cores import on_cores
from serve_app.engine.device.grouped import Groups, Run
from serve_app.engine.device.native.library import Native
from serve_app.engine.device.native.products import Products

ALIGNMENT_BYTES = 16
SCRATCH_VALUES = 1 << 20
"""How many values of a matrix are widened at a time: 4 MiB in float32."""
SCRATCH_BYTES = 4 * SCRATCH_VALUES
FEW_ROWS = 5
"""From this many rows on, widening pays. With fewer, torch computes dot products, one by one."""
MANY_ROWS = 9
"""From this many rows on, torch's bfloat16 products are faster than compiled code where it has fast
ones (with AVX-512). With fewer they take two to three times as long."""
MANY_ROWS_OF_DOTS = 65
"""The same where compiled code, too, lets the CPU multiply bfloat16 (AVX-512 BF16)."""
NUM_CHUNKS = 4
"""Pieces that a product on the CPU is cut into. Cores share pieces well. In a product with few
rows they share the packing of its operands instead, and wait for each other (MKL 2024)."""


def widens_on(device: torch.device) -> bool:
    """Whether bfloat16 products are faster in float32: on x86 CPUs without AVX-512."""
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return capabilities.get("architecture") == "x86_64" and not capabilities.get("avx512_bw")


class Multiplier:
    """Multiplies rows by matrices on one device. Not for several threads at once.

    widens: copy bfloat16 matrices to float32 block by block, multiply there, and round the result;
    else let the device multiply bfloat16.   native: if set, used instead for matrices with
    contiguous lines: of widening, and of the device's own products with few rows.
    """

    def __init__(
        self,
        device: torch.device,
        native: Native | None = None,
        *,
        widens: bool | None = None,
    ) -> None:
        self.on_cpu = device.type == "cpu"
        self._widens = widens_on(device) if widens is None else widens
        self._num_threads = torch.get_num_threads()
        self._compiled = None if native is None else Products(native)
        self._most_rows = _most_rows(self._compiled, widens=self._widens)
        self._scratch = torch.empty(SCRATCH_VALUES if self._widens else 0, device=device)

    def all_cores(self) -> AbstractContextManager[None]:
        """Let torch's operations use as many cores as when this was made: for large operations."""
        return on_cores(self._num_threads)

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x: (…, I)   weight: (O, I)   bias: (O,)  ->  (…, O)"""
        if not self.on_cpu:
            return F.linear(x, weight, bias)
        rows = x.reshape(-1, x.shape[-1])
        out = x.new_empty((rows.shape[0], weight.shape[0]))
        own = None if bias is None else bias.unsqueeze(0)
        self._run(rows, weight.unsqueeze(0), Groups(((0, 0, rows.shape[0]),)), own, out)
        return out.view(*x.shape[:-1], weight.shape[0])

    def grouped(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        groups: Groups,
        bias: torch.Tensor | None = None,
        *,
        transposed: bool = False,
    ) -> torch.Tensor:
        """Each group of rows times its own matrix.

        x: (n, I), rows sorted by group   weight: (G, O, I), or (G, I, O) where `transposed`
        bias: (G, O), only if the host knows the groups  ->  (n, O); rows after the last group are
        undefined
        """
        matrices = weight.transpose(-2, -1) if transposed else weight  # (G, O, I)
        if groups.runs is None:
            assert groups.ends is not None
            assert bias is None
            return _grouped_on_device(x, matrices.transpose(-2, -1), groups.ends)
        out = x.new_empty((x.shape[0], matrices.shape[1]))
        self._run(x, matrices, groups, bias, out)
        return out

    def _run(
        self,
        x: torch.Tensor,
        matrices: torch.Tensor,
        groups: Groups,
        bias: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """On the CPU.   x: (n, I)   matrices: (G, O, I)   bias: (G, O)   out: (n, O), is filled"""
        runs: Sequence[Run] = groups.runs or ()
        if self._compiled and x.dtype == torch.bfloat16 and matrices.stride(2) == 1:
            most = self._most_rows
            if groups.longest > most:
                runs = [run for run in runs if run[2] - run[1] > most]
                groups = Groups(tuple(run for run in groups.runs or () if run not in runs))
            else:
                runs = ()
            self._compiled.multiply(x, matrices, groups.bounds, bias, out)
        if runs:
            with self.all_cores():
                for group, start, end in runs:
                    own = None if bias is None else bias[group]
                    self._multiply(x[start:end], matrices[group].t(), own, out[start:end])

    def _multiply(
        self,
        x: torch.Tensor,
        matrix: torch.Tensor,
        bias: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """On the CPU.   x: (m, I)   matrix: (I, O)   bias: (O,)   out: (m, O), is filled"""
        if x.dtype == torch.float32:
            _chunked(x, matrix, bias, out)
        elif self._widens and (x.shape[0] >= FEW_ROWS or matrix.stride(0) != 1):
            self._widened(x, matrix, bias, out)
        elif bias is None:
            torch.mm(x, matrix, out=out)
        else:
            torch.addmm(bias, x, matrix, out=out)

    def _widened(
        self,
        x: torch.Tensor,
        matrix: torch.Tensor,
        bias: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """Like `_multiply`. Rounds each sum once, after adding the bias."""
        wide = x.float()
        num_columns, num_outputs = matrix.shape
        at_once = max(1, SCRATCH_VALUES // num_columns)
        for first in range(0, num_outputs, at_once):
            part = slice(first, min(first + at_once, num_outputs))
            block = self._widen(matrix[:, part])
            own = None if bias is None else bias[part]
            _chunked(wide, block, own, out[:, part])

    def _widen(self, block: torch.Tensor) -> torch.Tensor:
        """The block in float32, in the scratch buffer, in its own order.   (I, O)"""
        lines = block.t() if block.stride(0) == 1 else block
        room = self._scratch[: lines.numel()].view(lines.shape)
        room.copy_(lines)
        return room if lines is block else room.t()


def _most_rows(compiled: Products | None, *, widens: bool) -> int:
    """With more rows than this, a product is left to torch."""
    if compiled is None:
        return 0
    if widens:
        return sys.maxsize
    return (MANY_ROWS_OF_DOTS if compiled.has_dots else MANY_ROWS) - 1


def _chunked(
    x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """x: (m, I) float32   matrix: (I, O) float32   bias: (O,)   out: (m, O), is filled"""
    num = NUM_CHUNKS if out.shape[1] % NUM_CHUNKS == 0 else 1
    each = out.shape[1] // num
    chunks = matrix.unflatten(1, (num, each)).transpose(0, 1)  # (c, I, O/c)
    found = torch.bmm(x.expand(num, *x.shape), chunks)  # (c, m, O/c)
    if bias is not None:
        found += bias.view(num, 1, each)
    out.unflatten(1, (num, each)).copy_(found.transpose(0, 1))


def _grouped_on_device(x: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """x: (n, I)   matrices: (G, I, O)   ends: (G,) int32  ->  (n, O)"""
    if aligned(matrices) and aligned(x):
        return F.grouped_mm(x, matrices, offs=ends)
    out = x.new_empty((x.shape[0], matrices.shape[-1]))
    start = 0
    for group, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(x[start:end], matrices[group], out=out[start:end])
        start = end
    return out


def aligned(matrices: torch.Tensor) -> bool:
    """Whether the grouped kernel accepts these: it needs strides of 16 bytes.

    matrices: (…, A, B), contiguous in one of the two
    """
    along, across = sorted(matrices.stride()[-2:])
    return along == 1 and across * matrices.dtype.itemsize % ALIGNMENT_BYTES == 0
