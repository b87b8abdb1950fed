"""Products with bfloat16 matrices, by compiled code."""

import ctypes
from array import array

import torch

from serve_app.engine.device.native.library import Native

DOTS = ("avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16")


class Products:
    """The code of `products.c`. Several threads may call it at once."""

    def __init__(self, native: Native, *, dots: bool | None = None) -> None:
        """dots: whether the CPU is to multiply bfloat16 itself; None: if it can."""
        capabilities = torch.cpu.get_capabilities()
        self.has_dots = all(map(capabilities.get, DOTS)) if dots is None else dots
        self._num_threads = native.num_threads
        self._call = native.library.expertpool_products
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._call.restype = None
        self._call.argtypes = [pointer, number, number, pointer, number, number, number]
        self._call.argtypes += [pointer, number, pointer, number, pointer, number, number]

    def multiply(
        self,
        x: torch.Tensor,
        matrices: torch.Tensor,
        bounds: "array[int]",
        bias: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """Multiplies runs of rows, each by its own matrix. Sums in float32 and rounds once.

        x: (n, I) bfloat16   matrices: (G, O, I) bfloat16, lines contiguous
        bounds: matrix, first row and end of each run   bias: (G, O), lines contiguous
        out: (n, O) bfloat16, contiguous; rows of runs are filled
        The numbers of a row do not depend on the other rows.
        """
        rows = x if x.stride(1) == 1 else x.contiguous()
        self._call(
            matrices.data_ptr(),
            matrices.stride(0),
            matrices.stride(1),
            rows.data_ptr(),
            rows.stride(0),
            matrices.shape[2],
            matrices.shape[1],
            bounds.buffer_info()[0],
            len(bounds) // 3,
            None if bias is None else bias.data_ptr(),
            0 if bias is None else bias.stride(0),
            out.data_ptr(),
            self.has_dots,
            self._num_threads,
        )
