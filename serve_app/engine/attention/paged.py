"""Attention over the paged store, for tokens of many sequences of many models. Decides nothing.

Registered with the attention interface of transformers; a stock model's attention module calls
it with its own queries, keys and values.
"""

from dataclasses import replace
from typing import Any

import torch
from transformers import AttentionInterface

from representation.architecture.attention import AttentionKind, unknown_keywords
from serve_app.engine.attention.biases import PositionBias
from serve_app.engine.attention.form import AttentionForm, Call
from serve_app.engine.attention.store import KVLayer
from serve_app.engine.attention.whole import WholeAttention
from serve_app.engine.step.step import CurrentStep
from serve_app.errors import Unsupported

ATTENTION = "expertpool_paged"


class PagedAttention:
    """One attention layer: its store, its form, and how models differ from the module's scale.

    kind: which keys a token sees: those stored of its own sequence, or of what its encoder gave.
    bias: on its scores; None: none.
    scales: (R,) float, by map row: the factor from the stock module's scale to the model's own;
    None while all are 1 (they differ where a model's rope parameters enter the scale).
    """

    def __init__(
        self,
        step: CurrentStep,
        store: KVLayer,
        form: AttentionForm,
        kind: AttentionKind,
        bias: PositionBias | None = None,
    ) -> None:
        self.step = step
        self.store = store
        self.form = form
        self._kind = kind
        self._bias = bias
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
        Of cross-attention, keys and values are those of the step's inputs: (E, H, D).
        """
        view = self.step.view
        if self._kind.sees == "encoder":
            assert view.inputs is not None, "cross-attention runs in a step without inputs"
            self.store.write(view.inputs.index, key, value)
            view = replace(view, groups=view.inputs.groups, paging=view.inputs.paging)
        else:
            self.store.write(view.kv_index, key, value)
        if self.scales is not None:
            query = query * self.scales[view.tokens.rows].to(query.dtype)[:, None, None]
        window = self._kind.window
        call = Call(query, self.store, view, window, scaling, sinks, softcap, self._bias)
        return self.form.attend(call)


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
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    by_token = [x[0].transpose(0, 1) for x in (query, key, value)]
    layer: PagedAttention | WholeAttention = module.expertpool_attention
    if isinstance(layer, WholeAttention):
        return layer.forward(*by_token, scaling=scaling).unsqueeze(0), None
    out = layer.forward(
        *by_token,
        scaling=scaling,
        sinks=s_aux,
        softcap=softcap,
    )
    return out.unsqueeze(0), None


AttentionInterface.register(ATTENTION, _attention_forward)
