"""Attention over the paged store, for tokens of many sequences of many models. Decides nothing.

Registered with the attention interface of transformers; a stock model's attention module calls
it with its own queries, keys and values.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from serve_app.engine.kv import KVLayer
from serve_app.engine.step import CurrentStep, SequenceGroup

ATTENTION = "expertpool_paged"


class PagedAttention:
    """One attention layer: its store, and how models differ from the stock module's scale.

    window: how many of the last tokens each token sees, itself among them; None: all.
    scales: (R,) float, by map row: the factor from the stock module's scale to the model's own;
    None while all are 1 (they differ where a model's rope parameters enter the scale).
    """

    def __init__(self, step: CurrentStep, store: KVLayer, window: int | None) -> None:
        self.step = step
        self.store = store
        self.window = window
        self.scales: torch.Tensor | None = None

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float,
        sinks: torch.Tensor | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Write the step's keys and values, then let each token see its own sequence.

        query: (T, Hq, Dk)   key: (T, H, Dk)   value: (T, H, Dv)   sinks: (T, Hq)
        ->  (T, Hq, Dv)
        """
        view = self.step.view
        self.store.write(view.kv_index, key, value)
        if self.scales is not None:
            query = query * self.scales[view.tokens.rows].to(query.dtype)[:, None, None]
        groups = view.groups
        found = [self._attend(group, query, scaling, sinks, softcap) for group in groups]
        if len(groups) == 1:  # all tokens, in order
            return found[0]
        out = query.new_empty((*query.shape[:2], value.shape[-1]))
        for group, part in zip(groups, found, strict=True):
            out.index_copy_(0, group.rows.flatten(), part)
        return out

    def _attend(
        self,
        group: SequenceGroup,
        query: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """query: (T, Hq, Dk)   sinks: (T, Hq)  ->  (S*n, Hq, Dv), the group's tokens

        Queries that share a head of keys stand side by side, as if they were so many tokens: then
        no key is copied for each of them.
        """
        reach = group.reach(self.window, query.dtype)
        keys, values = self.store.read(reach.tables)  # (S, H, L, D)
        rows, (num, length) = group.rows.flatten(), group.rows.shape
        heads, each = keys.shape[1], query.shape[1] // keys.shape[1]

        def by_head(x: torch.Tensor) -> torch.Tensor:
            """(T, Hq, …) -> (S, H, n*each, …)"""
            x = x.index_select(0, rows).view(num, length, heads, each, *x.shape[2:])
            return x.transpose(1, 2).flatten(2, 3)

        q = by_head(query)
        mask = reach.mask  # (S, 1, n, L)
        if length > 1 and each > 1:
            mask = mask.repeat_interleave(each, dim=2)  # (S, 1, n*each, L)
        if sinks is None and softcap is None:
            got = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scaling)
        else:
            got = attend(
                q, keys, values, mask, scaling, None if sinks is None else by_head(sinks), softcap
            )
        got = got.view(num, heads, length, each, -1).transpose(1, 2)  # (S, n, H, each, Dv)
        return got.reshape(num * length, heads * each, -1)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    sink: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention with a learned sink in the softmax, or capped scores, in float32.

    query: (S, H, n, D)   keys, values: (S, H, L, D)   mask: (S, 1, n, L)   sink: (S, H, n)
    ->  (S, H, n, Dv)
    A sink is one more score that takes its share of the probability and carries no value
    (GPT-OSS model card, 2025).
    """
    scores = torch.matmul(query.float(), keys.float().transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    if sink is not None:
        scores = torch.cat([scores, sink.float().unsqueeze(-1)], dim=-1)
    probabilities = torch.softmax(scores, dim=-1)[..., : keys.shape[2]]
    return torch.matmul(probabilities, values.float()).to(query.dtype)


def _attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    s_aux: torch.Tensor | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention interface's function. query, key, value: (1, heads, T, D)"""
    paged: PagedAttention = module.paged_attention
    out = paged.forward(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        sinks=s_aux,
        softcap=softcap,
    )
    return out.unsqueeze(0), None


AttentionInterface.register(ATTENTION, _attention_forward)
