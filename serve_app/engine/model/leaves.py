"""Leaves with the weights of several backbones, put where a stock model had one of each.

These know what a module of a library's class computes; `originals.py` has those that run a
module's own code. `fitting.py` decides which one a module gets.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from representation.architecture.tracing import Axes
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.model.stacks import Stacks
from serve_app.engine.step.step import CurrentStep, Spans

Names = Mapping[str, str]
"""A module's own tensor names -> names of the stacks that hold them."""


class Leaf(nn.Module):
    """Common to the leaves: the running step, the stacks, and where the tokens are."""

    def __init__(self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes) -> None:
        super().__init__()
        self.step = step
        self.stacks = stacks
        self.names = dict(names)
        self.axes = axes

    @property
    def spans(self) -> Spans:
        view = self.step.view
        return view.outputs if self.axes.outputs_only else view.tokens

    def stack(self, name: str) -> torch.Tensor:
        return self.stacks.ready(self.names[name])

    def stack_or_none(self, name: str) -> torch.Tensor | None:
        return self.stack(name) if name in self.names else None


class StackedLinear(Leaf):
    """`nn.Linear` of every place: one grouped product, the groups are the places."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, multiplier: Multiplier
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._multiplier = multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spans = self.spans
        weight, bias = self.stack("weight"), self.stack_or_none("bias")
        place = spans.sole_place
        if place is not None:
            own = None if bias is None else bias[place]
            return self._multiplier.linear(x, weight[place], own)
        axis = self.axes.inputs[0]
        assert axis is not None
        rows = x.movedim(axis, 0)  # (n, ..., I)
        return by_place(self._multiplier, rows, weight, bias, spans).movedim(0, axis)


def by_place(
    multiplier: Multiplier,
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    spans: Spans,
) -> torch.Tensor:
    """Each token's rows times the matrix of its place.

    rows: (n, ..., I)   weight: (S, O, I)   bias: (S, O)  ->  (n, ..., O)
    """
    flat = rows.reshape(-1, rows.shape[-1])
    each = flat.shape[0] // spans.count  # rows of the product for one token
    if rows.device.type == "cpu" and not spans.anywhere:
        runs = tuple((s.place, s.start * each, s.end * each) for s in spans.segments)
        out = multiplier.grouped(flat, weight, Groups(runs), bias)
        return out.view(*rows.shape[:-1], weight.shape[1])
    groups = Groups(ends=spans.ends * each)
    out = multiplier.grouped(flat, weight, groups).view(*rows.shape[:-1], weight.shape[1])
    if bias is None:
        return out
    return out + bias[spans.places].view(rows.shape[0], *[1] * (rows.dim() - 2), -1)


class StackedEmbedding(Leaf):
    """`nn.Embedding` of every place: one gather from the stacks seen as one long table."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weight = self.stack("weight")  # (S, V, H)
        places, vocabulary, width = weight.shape
        index = ids + (self.spans.places * vocabulary).view_as(ids)
        return F.embedding(index, weight.view(places * vocabulary, width))


class StackedLayerNorm(Leaf):
    """`nn.LayerNorm` of every place: normalised once, scaled and shifted by token."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, original: nn.LayerNorm
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self.normalized_shape = original.normalized_shape
        self.eps = original.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.stack_or_none("weight"), self.stack_or_none("bias")
        place = self.spans.sole_place
        if place is not None:
            chosen = [None if stack is None else stack[place] for stack in (weight, bias)]
            return F.layer_norm(x, self.normalized_shape, chosen[0], chosen[1], self.eps)
        out = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        if weight is not None:
            out = out * per_token(weight, self.spans.places, self.axes, x.dim())
        if bias is not None:
            out = out + per_token(bias, self.spans.places, self.axes, x.dim())
        return out


class StackedRMSNorm(Leaf):
    """A root mean square norm of every place: normalised and rounded once, scaled by token."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        axes: Axes,
        *,
        eps: float,
        rows: Rows | None,
    ) -> None:
        """rows: compiled code for it, where there is any."""
        super().__init__(step, stacks, names, axes)
        self.eps = eps
        self._rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.stack("weight")
        spans = self.spans
        if self._rows is not None and self._suits(x, weight):
            return self._rows.rms_norm(x, weight, spans.places, self.eps)
        place = spans.sole_place
        out = F.rms_norm(x, x.shape[-1:], eps=self.eps)
        if place is not None:
            return out * weight[place]
        return out * per_token(weight, spans.places, self.axes, x.dim())

    def _suits(self, x: torch.Tensor, weight: torch.Tensor) -> bool:
        """Whether the compiled code takes these: rows that lie token by token."""
        axis = self.axes.inputs[0]
        is_bfloat16 = x.dtype == weight.dtype == torch.bfloat16
        return is_bfloat16 and x.is_contiguous() and all(size == 1 for size in x.shape[:axis])


def per_token(stack: torch.Tensor, places: torch.Tensor, axes: Axes, dims: int) -> torch.Tensor:
    """Weights by token, shaped to broadcast against a tensor of `dims` dimensions.

    stack: (S, *p)   places: (n,)  ->  (1, …, n, …, 1, *p) with n at the token axis
    """
    axis = axes.inputs[0]
    assert axis is not None
    weights = stack.index_select(0, places)
    between = dims - axis - 1 - (stack.dim() - 1)
    return weights.view(*[1] * axis, len(places), *[1] * between, *stack.shape[1:])
