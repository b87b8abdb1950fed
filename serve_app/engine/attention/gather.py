"""The plain form of attention: gather the blocks, then `scaled_dot_product_attention`.

It is right on every device and for every layer; other forms are compared with it.
"""

import torch
from torch.nn import functional as F

from serve_app.engine.attention.form import Call
from serve_app.engine.step.paging import Paging
from serve_app.engine.step.sequence_group import SequenceGroup


class Gather:
    """One call for each group of sequences."""

    name = "gather"
    takes_groups = True
    takes_paging = False
    num_bytes = 0

    def attend(self, call: Call) -> torch.Tensor:
        groups = call.view.groups
        found = [_attend(call, group) for group in groups]
        if len(groups) == 1:  # all tokens, in order
            return found[0]
        out = torch.cat(found)  # (T, Hq, Dv), group by group
        order = torch.cat([group.rows.flatten() for group in groups])  # (T,)
        return torch.empty_like(out).index_copy_(0, order, out)

    def prepare(self, paging: Paging) -> None:
        """Does nothing: its inputs are on the device already."""


def _attend(call: Call, group: SequenceGroup) -> torch.Tensor:
    """->  (S*n, Hq, Dv), the group's tokens

    Queries that share a head of keys are side by side, as if each were a token, so that no key has
    to be copied for each of them.
    """
    reach = group.reach(call.window, call.query.dtype)
    keys, values = call.store.read(reach.tables)  # (S, H, L, D)
    rows, (num, length) = group.rows.flatten(), group.rows.shape  # (S*n,), S and n
    heads, each = keys.shape[1], call.query.shape[1] // keys.shape[1]

    def by_head(x: torch.Tensor) -> torch.Tensor:
        """(T, Hq, …) -> (S, H, n*each, …)"""
        x = x.index_select(0, rows).view(num, length, heads, each, *x.shape[2:])
        return x.transpose(1, 2).flatten(2, 3)  # (S, n, H, each, …) -> (S, H, n*each, …)

    query, mask = by_head(call.query), reach.mask  # (S, H, n*each, D), (S, 1, n, L)
    if length > 1 and each > 1:
        mask = mask.repeat_interleave(each, dim=2)  # (S, 1, n*each, L)
    if call.bias is not None:
        mask = mask + _bias_by_head(call.bias.of_group(group, call.view.tokens), heads)
    if call.sinks is None and call.softcap is None:
        got = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=call.scaling
        )
    else:
        sinks = None if call.sinks is None else by_head(call.sinks)
        got = _by_products(query, keys, values, mask, call.scaling, sinks, call.softcap)
    got = got.view(num, heads, length, each, -1).transpose(1, 2)  # (S, n, H, each, Dv)
    return got.reshape(num * length, heads * each, -1)  # (S*n, Hq, Dv)


def _bias_by_head(bias: torch.Tensor, heads: int) -> torch.Tensor:
    """bias: (S, Hq, n, L)  ->  (S, H, n*each, L)"""
    of_heads = bias.view(bias.shape[0], heads, -1, *bias.shape[2:])  # (S, H, each, n, L)
    return of_heads.transpose(2, 3).flatten(2, 3)


def _by_products(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention in float32 with sinks in the softmax, or with capped scores.

    query: (S, H, n, D)   keys, values: (S, H, L, D)   mask: (S, 1, n, L)   sinks: (S, H, n)
    ->  (S, H, n, Dv)
    """
    scores = torch.matmul(query.float(), keys.float().transpose(2, 3)) * scaling  # (S, H, n, L)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().unsqueeze(-1)], dim=-1)  # (S, H, n, L+1)
    probabilities = torch.softmax(scores, dim=-1)[..., : keys.shape[2]]  # (S, H, n, L)
    return torch.matmul(probabilities, values.float()).to(query.dtype)
