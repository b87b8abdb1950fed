"""Operations on each row by itself, by compiled code."""

import ctypes

import torch

from serve_app.engine.device.native.library import Native


class Rows:
    """The code of `rows.c`. Several threads may call it at once."""

    def __init__(self, native: Native) -> None:
        self._num_threads = native.num_threads
        self._norm = native.library.expertpool_rms_norm
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._norm.restype = None
        self._norm.argtypes = [pointer, number, number, pointer, pointer, number, ctypes.c_float]
        self._norm.argtypes += [pointer, number]

    def rms_norm(
        self, x: torch.Tensor, weights: torch.Tensor, places: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Divides each row by its root mean square, rounds, and multiplies by its token's weights.

        x: (…, W) bfloat16, contiguous, its n tokens in order with as many rows each
        weights: (S, W) bfloat16, contiguous   places: (n,) int64  ->  (…, W)
        """
        width = x.shape[-1]
        num_rows = x.numel() // width
        out = torch.empty_like(x)
        self._norm(
            x.data_ptr(),
            num_rows,
            width,
            weights.data_ptr(),
            places.data_ptr(),
            max(1, num_rows // max(1, places.shape[0])),
            eps,
            out.data_ptr(),
            self._num_threads,
        )
        return out
