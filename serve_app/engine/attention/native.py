"""Attention by compiled code that reads the paged store in place, on x86 CPUs with AVX2."""

import ctypes

import torch

from serve_app.engine.attention.form import Call
from serve_app.engine.attention.store import KVLayer
from serve_app.engine.device.native.library import Native, native
from serve_app.engine.step.paging import Paging

_Number, _Pointer = ctypes.c_int64, ctypes.c_void_p


class _Call(ctypes.Structure):
    """`Call` of `attention/rows.h`, field by field."""

    _fields_ = (
        ("query", _Pointer),
        ("keys", _Pointer),
        ("values", _Pointer),
        ("out", _Pointer),
        ("sinks", _Pointer),
        ("starts", _Pointer),
        ("lengths", _Pointer),
        ("tables", _Pointer),
        ("scratch", _Pointer),
        ("query_strides", _Number * 2),
        ("num_sequences", _Number),
        ("most_tokens", _Number),
        ("table_width", _Number),
        ("block_size", _Number),
        ("query_heads", _Number),
        ("kv_heads", _Number),
        ("key_dim", _Number),
        ("value_dim", _Number),
        ("window", _Number),
        ("is_bfloat16", _Number),
        ("num_threads", _Number),
        ("scaling", ctypes.c_float),
        ("softcap", ctypes.c_float),
    )


class CompiledAttention:
    """The code of `attention.c`. Not for several threads at once: it has one scratch buffer."""

    def __init__(self, native: Native) -> None:
        self._num_threads = native.num_threads
        self._call = native.library.expertpool_attention
        self._call.restype, self._call.argtypes = None, [_Pointer]
        self._scratch_size = native.library.expertpool_attention_scratch
        self._scratch_size.restype, self._scratch_size.argtypes = _Number, [_Number, _Number]
        self._scratch = torch.empty(0)

    def attend(
        self,
        query: torch.Tensor,
        store: KVLayer,
        paging: Paging,
        window: int | None,
        scaling: float,
        sinks: torch.Tensor | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Attend as a form does, in float32, and round once.

        query: (T, Hq, Dk), of the store's dtype, bfloat16 or float32   sinks: (T, Hq) float32,
        contiguous  ->  (T, Hq, Dv)
        The numbers of a sequence depend neither on other sequences nor on the threads.
        """
        num_tokens, query_heads, key_dim = query.shape
        kv_heads, value_dim = store.values.shape[2:]
        if query.stride(2) != 1:
            query = query.contiguous()
        needed = self._num_threads * self._scratch_size(key_dim, value_dim)
        if needed > len(self._scratch):
            self._scratch = torch.empty(needed)
        out = query.new_empty((num_tokens, query_heads, value_dim))
        call = _Call(
            query.data_ptr(),
            store.keys.data_ptr(),
            store.values.data_ptr(),
            out.data_ptr(),
            None if sinks is None else sinks.data_ptr(),
            paging.starts.data_ptr(),
            paging.lengths.data_ptr(),
            paging.tables.data_ptr(),
            self._scratch.data_ptr(),
            (query.stride(0), query.stride(1)),
            len(paging.lengths),
            paging.most_tokens,
            paging.tables.shape[1],
            paging.block_size,
            query_heads,
            kv_heads,
            key_dim,
            value_dim,
            window or 0,
            query.dtype == torch.bfloat16,
            self._num_threads,
            scaling,
            softcap or 0.0,
        )
        self._call(ctypes.addressof(call))
        return out


def native_form() -> "PagedNative":
    """Raises: RuntimeError if nothing was compiled, or the CPU cannot run it."""
    code = native()
    if code is None:
        raise RuntimeError("there is no compiled code for this CPU")
    return PagedNative(CompiledAttention(code))


class PagedNative:
    """All sequences in one call, whatever their lengths."""

    name = "native"
    takes_groups = False
    takes_paging = True
    num_bytes = 0  # its scratch buffer is far smaller than the copies a step's workspace allows for

    def __init__(self, attention: CompiledAttention) -> None:
        self._attention = attention

    def attend(self, call: Call) -> torch.Tensor:
        paging = call.view.paging
        assert paging is not None
        sinks = None if call.sinks is None else call.sinks.float().contiguous()
        return self._attention.attend(
            call.query, call.store, paging, call.window, call.scaling, sinks, call.softcap
        )

    def prepare(self, paging: Paging) -> None:
        """Does nothing: it reads its inputs in place."""
