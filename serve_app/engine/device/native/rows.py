"""Operations on each row by itself, by compiled code."""

import ctypes

import torch

from serve_app.engine.device.native.library import Native

_Number, _Pointer = ctypes.c_int64, ctypes.c_void_p


class _Heads(ctypes.Structure):
    """`Heads` of `rows.c`."""

    _fields_ = (
        ("heads", _Pointer),
        ("out", _Pointer),
        ("num_heads", _Number),
        ("head_stride", _Number),
        ("token_stride", _Number),
        ("out_head_stride", _Number),
        ("out_token_stride", _Number),
    )


class _Rotation(ctypes.Structure):
    """`Rotation` of `rows.c`."""

    _fields_ = (
        ("queries", _Heads),
        ("keys", _Heads),
        ("num_tokens", _Number),
        ("dim", _Number),
        ("half", _Number),
        ("cos", _Pointer),
        ("sin", _Pointer),
        ("token_stride", _Number),
        ("second", _Number),
        ("num_threads", _Number),
    )


class Rows:
    """The code of `rows.c`. Several threads may call it at once."""

    def __init__(self, native: Native) -> None:
        self._num_threads = native.num_threads
        self._norm = native.library.expertpool_rms_norm
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._norm.restype = None
        self._norm.argtypes = [pointer, number, number, pointer, pointer, number, ctypes.c_float]
        self._norm.argtypes += [pointer, number]
        self._choose = native.library.expertpool_choose
        self._choose.restype = None
        self._choose.argtypes = [pointer, number, number, number, number, pointer, pointer, number]
        self._likeliest = native.library.expertpool_likeliest
        self._likeliest.restype = None
        self._likeliest.argtypes = [pointer, number, number, pointer, number]
        self._rotate = native.library.expertpool_rotate
        self._rotate.restype, self._rotate.argtypes = None, [pointer]

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

    def choose(
        self, logits: torch.Tensor, num_chosen: int, *, sum_to_one: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest logits of each row, and their shares of its softmax, in float32.

        logits: (n, E) bfloat16, contiguous   sum_to_one: whether the shares are of what is chosen
        alone  ->  shares: (n, K) float32, indices: (n, K) int64
        """
        num_rows, num_columns = logits.shape
        scores = logits.new_empty((num_rows, num_chosen), dtype=torch.float32)
        chosen = logits.new_empty((num_rows, num_chosen), dtype=torch.int64)
        self._choose(
            logits.data_ptr(),
            num_rows,
            num_columns,
            num_chosen,
            sum_to_one,
            scores.data_ptr(),
            chosen.data_ptr(),
            self._num_threads,
        )
        return scores, chosen

    def likeliest(self, logits: torch.Tensor) -> torch.Tensor:
        """The first of the largest of each row.

        logits: (n, V) bfloat16, contiguous  ->  (n,) int64
        """
        found = logits.new_empty(logits.shape[0], dtype=torch.int64)
        self._likeliest(logits.data_ptr(), *logits.shape, found.data_ptr(), self._num_threads)
        return found

    def rotate(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *,
        each_half: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turns numbers of each head, each with the one half of the turned numbers further on.

        queries, keys: (1, heads, T, D) bfloat16, numbers of a head contiguous
        cos, sin: (1, T, A) bfloat16, alike in strides, of the turned numbers, or of half of them
        if `each_half`  ->  the same shapes
        Products and sums are rounded to bfloat16, as torch does.
        """
        num_tokens, angles = cos.shape[1:]
        half = angles if each_half else angles // 2
        turned = torch.empty_like(queries), torch.empty_like(keys)
        call = _Rotation(
            _heads(queries, turned[0]),
            _heads(keys, turned[1]),
            num_tokens,
            queries.shape[3],
            half,
            cos.data_ptr(),
            sin.data_ptr(),
            cos.stride(1),
            angles - half,
            self._num_threads,
        )
        self._rotate(ctypes.addressof(call))
        return turned


def _heads(x: torch.Tensor, out: torch.Tensor) -> _Heads:
    """x, out: (1, H, T, D)"""
    strides = *x.stride()[1:3], *out.stride()[1:3]
    return _Heads(x.data_ptr(), out.data_ptr(), x.shape[1], *strides)
