"""Attention over the paged store, for tokens of many sequences of many models. Decides nothing.

Registered with the attention interface of transformers; a stock model's attention module calls
it with its own queries, keys and values.
"""

from typing import Any

import torch
from transformers import AttentionInterface

from representation.architecture.attention import unknown_keywords
from serve_app.engine.attention.form import AttentionForm, Call
from serve_app.engine.attention.store import KVLayer
from serve_app.engine.step.step import CurrentStep
from serve_app.errors import Unsupported

ATTENTION = "expertpool_paged"


class PagedAttention:
    """One attention layer: its store, its form, and how models differ from the module's scale.

    window: how many of the last tokens each token sees, itself among them; None: all.
    scales: (R,) float, by map row: the factor from the stock module's scale to the model's own;
    None while all are 1 (they differ where a model's rope parameters enter the scale).
    """

    def __init__(
        self, step: CurrentStep, store: KVLayer, form: AttentionForm, window: int | None
    ) -> None:
        self.step = step
        self.store = store
        self.form = form
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
        return self.form.attend(Call(query, self.store, view, self.window, scaling, sinks, softcap))


def _attention_forward(
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
    """The attention interface's function. query, key, value: (1, heads, T, D)

    Raises: Unsupported for a keyword that is neither served nor known to change nothing.
    """
    unknown = unknown_keywords(module, others)
    if unknown is not None:
        raise Unsupported(unknown)
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
