"""Recurrences of one token for each of many sequences, by compiled code: one pass over states."""

import ctypes
from collections.abc import Callable

import torch

from serve_app.engine.device.native.library import Native


class _Call(ctypes.Structure):
    """`Recurrence` of `recurrent.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("states", "rows", "by_row", "by_column")),
        *((name, ctypes.c_void_p) for name in ("reads", "decays", "rates", "out")),
        *((name, ctypes.c_int64) for name in ("num_sequences", "num_heads", "num_groups")),
        *((name, ctypes.c_int64) for name in ("height", "width", "num_threads")),
    )


class Recurrent:
    """The code of `recurrent.c`. Several threads may call it at once."""

    def __init__(self, native: Native) -> None:
        self._num_threads = native.num_threads
        self._delta = native.library.expertpool_delta_rule
        self._delta.restype, self._delta.argtypes = None, [ctypes.c_void_p]
        self._space = native.library.expertpool_state_space
        self._space.restype, self._space.argtypes = None, [ctypes.c_void_p]

    def delta(
        self,
        states: torch.Tensor,
        rows: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        decay: torch.Tensor,
        beta: torch.Tensor,
    ) -> torch.Tensor:
        """Multiply states by a decay, move what they hold at a key towards a value, and read them.

        states: (R, H, Dk, Dv), replaced in `rows`, (S,) int64   query, key: (S, Hk, Dk)
        value: (S, H, Dv)   decay, beta: (S, H); all but rows float32  ->  (S, H, Dv)
        """
        out = torch.empty(value.shape)
        given = [x.contiguous() for x in (key, value, query, decay, beta)]
        height, width = states.shape[2:]
        self._run(self._delta, states, rows, given, out, key.shape[1], height, width)
        return out

    def state_space(
        self,
        states: torch.Tensor,
        rows: torch.Tensor,
        x: torch.Tensor,
        decay: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
    ) -> torch.Tensor:
        """Multiply states by a decay, add a product of vectors, and read them.

        states: (R, H, P, N), replaced in `rows`, (S,) int64   x: (S, H, P)   decay: (S, H)
        b, c: (S, G, N); all but rows float32  ->  (S, H, P)
        """
        out = torch.empty(x.shape)
        given = [each.contiguous() for each in (x, b, c, decay, decay)]
        height, width = states.shape[2:]
        self._run(self._space, states, rows, given, out, b.shape[1], height, width)
        return out

    def _run(
        self,
        function: Callable[[object], None],
        states: torch.Tensor,
        rows: torch.Tensor,
        given: list[torch.Tensor],
        out: torch.Tensor,
        num_groups: int,
        height: int,
        width: int,
    ) -> None:
        assert states.is_contiguous()
        assert states.shape[1] % num_groups == 0, "heads are not shared evenly"
        assert states.dtype is torch.float32
        call = _Call(
            states.data_ptr(),
            rows.data_ptr(),
            *(each.data_ptr() for each in given),
            out.data_ptr(),
            len(rows),
            states.shape[1],
            num_groups,
            height,
            width,
            self._num_threads,
        )
        function(ctypes.byref(call))
