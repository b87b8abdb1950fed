"""Attention by torch's own paged kernel: `varlen_attn` over block tables.

In torch 2.13 only FlashAttention 3 reads block tables. It is a separate package
(`flash_attn_interface`, for Hopper) that must be activated.
"""

import torch
from torch.nn import attention
from torch.nn.attention import varlen

from serve_app.engine.attention.form import Call, with_sinks
from serve_app.engine.step.paging import Paging

IMPLEMENTATION = "FA3"


def varlen_form() -> "Varlen":
    """Activates the kernel for the whole process; torch has no other way.

    Raises: ImportError if it is not installed; ValueError if torch does not know it.
    """
    if attention.current_flash_attention_impl() != IMPLEMENTATION:
        attention.activate_flash_attention_impl(IMPLEMENTATION)
    return Varlen()


class Varlen:
    """All sequences in one call, whatever their lengths."""

    name = "varlen"
    takes_groups = False
    takes_paging = True
    num_bytes = 0

    def attend(self, call: Call) -> torch.Tensor:
        assert call.softcap is None, "varlen_attn cannot cap scores"
        paging = call.view.paging
        assert paging is not None
        out, log_total = varlen.varlen_attn(
            call.query,
            call.store.keys,
            call.store.values,
            paging.starts,
            None,
            paging.most_tokens,
            paging.most_positions,
            return_aux=varlen.AuxRequest(lse=True),
            scale=call.scaling,
            window_size=(-1 if call.window is None else call.window - 1, 0),
            enable_gqa=True,
            seqused_k=paging.lengths,
            block_table=paging.tables,
        )  # (T, Hq, D), (Hq, T)
        return with_sinks(out, log_total.t(), call.sinks)

    def prepare(self, paging: Paging) -> None:
        """Does nothing: its inputs are on the device already."""
