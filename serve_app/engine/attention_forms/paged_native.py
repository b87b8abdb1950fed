"""Attention by compiled code that reads the paged store where it lies, on x86 CPUs with AVX2."""

import torch

from serve_app.engine.attention_forms.form import Call
from serve_app.engine.native.attention import Attention
from serve_app.engine.native.library import native
from serve_app.engine.step import Paging


def native_form() -> "PagedNative":
    """Raises: RuntimeError where nothing was compiled, or the CPU cannot run it."""
    code = native()
    if code is None:
        raise RuntimeError("there is no compiled code for this CPU")
    return PagedNative(Attention(code))


class PagedNative:
    """All sequences in one call, whatever their lengths."""

    name = "native"
    takes_groups = False
    takes_paging = True
    num_bytes = 0  # its scratch is far smaller than the copies that a step's workspace has room for

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def attend(self, call: Call) -> torch.Tensor:
        paging = call.view.paging
        assert paging is not None
        sinks = None if call.sinks is None else call.sinks.float().contiguous()
        return self._attention.attend(
            call.query, call.store, paging, call.window, call.scaling, sinks, call.softcap
        )

    def prepare(self, paging: Paging) -> None:
        """Nothing: what it is given is where it looks for it."""
