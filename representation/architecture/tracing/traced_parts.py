"""Stand for masks, attention and experts in a run without data, which notes them. Compute none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from representation.architecture.attention import (
    BIAS,
    AttentionKind,
    AttentionShape,
    is_causal,
    unknown_keywords,
)
from representation.architecture.errors import Unservable
from representation.architecture.tracing.trace import TRACED_INPUTS

TRACING = "expertpool_trace"
OTHER_MASK = (1, 1, 2, 0)
"""The shape that stands for a mask that cannot be served."""


def _traced_mask(
    *, mask_function: Callable[..., Any], local_size: int | None = None, **_: Any
) -> torch.Tensor:
    """Stands in for an attention mask. Its last dimension is the window; 0 means none.

    The argument `sliding_window` of attention does not tell: `generate()` uses the mask, and some
    architectures (Qwen2-MoE, PhiMoE) pass nothing else. A mask that is neither causal nor a causal
    window has another shape, and is refused only if a layer uses it.
    """
    if local_size == 0 or not is_causal(mask_function, local_size):  # of 0, it hides every token
        return torch.empty(OTHER_MASK, device="meta")
    return torch.empty((1, 1, 1, local_size or 0), device="meta")


def _traced_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    s_aux: torch.Tensor | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Stands in for attention in a run without data. query, key, value: (1, heads, T, D)"""
    unknown = unknown_keywords(module, others)
    if unknown is not None:
        raise Unservable(unknown)
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError("queries, keys and values have different dtypes")
    kind = _kind(module, query, key, attention_mask)
    shape = AttentionShape(query.shape[1], key.shape[1], key.shape[3], value.shape[3], softcap)
    module.expertpool_trace.note_attention(module, shape, kind, s_aux, others.get(BIAS))
    return query.new_empty((1, query.shape[2], query.shape[1], value.shape[-1])), None


def _kind(
    module: Any, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
) -> AttentionKind:
    """Which keys the queries see. Raises: Unservable for a mask that cannot be served."""
    every = (1, 1, 1, TRACED_INPUTS)  # what T5 makes where all tokens may be seen
    if key.shape[2] == TRACED_INPUTS and (mask is None or mask.shape == every):
        return AttentionKind("input" if query.shape[2] == TRACED_INPUTS else "encoder")
    if mask is not None and mask.shape == OTHER_MASK:
        raise Unservable(
            f"the attention mask of {type(module).__name__} is neither causal nor a causal window"
        )
    if mask is None or mask.shape[:-1] != (1, 1, 1):
        raise Unservable(
            f"the attention mask of {type(module).__name__} is not one that transformers makes"
        )
    return AttentionKind("before", mask.shape[-1] or None)


def _traced_experts(
    experts: nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Stands in for the experts in a run without data.

    hidden_states: (T, H)   top_k_index, top_k_weights: (T, K)  ->  (T, H)
    """
    if hidden_states.dim() != 2 or not top_k_index.dim() == top_k_weights.dim() == 2:
        given = (hidden_states, top_k_index, top_k_weights)
        raise Unservable(
            f"{type(experts).__name__} gets tensors of {[x.dim() for x in given]} dimensions; "
            "each must have one row per token and no other dimension but its own"
        )
    return torch.empty_like(hidden_states)


AttentionInterface.register(TRACING, _traced_attention)
AttentionMaskInterface.register(TRACING, _traced_mask)
ALL_EXPERTS_FUNCTIONS.register(TRACING, _traced_experts)
