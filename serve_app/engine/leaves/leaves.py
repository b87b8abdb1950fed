"""Leaves with the weights of several backbones, which replace modules of a stock model.

These know what a module of a library's class computes; `originals.py` has those that run a
module's own code. `fitting.py` decides which one a module gets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from representation.architecture.tracing.trace import Axes
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.stacks.stacks import Stack, Stacks
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep

Names = Mapping[str, str]
"""A module's own tensor names -> their names in a checkpoint."""


class Leaf(nn.Module):
    """What all leaves share: the running step, the stacks, and where the tokens are."""

    def __init__(self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes) -> None:
        super().__init__()
        self.step = step
        self.stacks = stacks
        self.names = dict(names)
        self.axes = axes

    def __getattr__(self, name: str) -> Any:
        """What a stock model's code may know of a weight without using it: dtype and device."""
        names = self.__dict__.get("names", {})
        if name not in names:
            return super().__getattr__(name)
        return self.stacks[names[name]].new_empty(0)

    @property
    def spans(self) -> Spans:
        return self.step.view.spans(self.axes.stream)

    def stack(self, name: str) -> Stack:
        return self.stacks.ready(self.names[name])

    def stack_or_none(self, name: str) -> Stack | None:
        return self.stack(name) if name in self.names else None


class StackedLinear(Leaf):
    """`nn.Linear` of every place: one grouped product, the groups are the rows of the stack."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, multiplier: Multiplier
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._multiplier = multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spans = self.spans
        weight, bias = self.stack("weight"), self.stack_or_none("bias")
        axis = self.axes.inputs[0]
        assert axis is not None
        if self._multiplier.on_cpu and spans.segments and x.shape[:axis].numel() == 1:
            return _by_runs(self._multiplier, x, weight, bias, spans)
        chosen = sole_rows((weight, bias), spans)
        if chosen is not None:
            matrix, own = chosen
            assert matrix is not None
            return self._multiplier.linear(x, matrix, own)
        rows = x.movedim(axis, 0)  # (n, ..., I)
        return by_row(self._multiplier, rows, weight, bias, spans).movedim(0, axis)


def sole_rows(stacks: Sequence[Stack | None], spans: Spans) -> list[torch.Tensor | None] | None:
    """The row of each stack that all tokens read; None if they read several of one."""
    found: list[torch.Tensor | None] = []
    for stack in stacks:
        row = None if stack is None else stack.rows.sole(spans)
        if stack is not None and row is None:
            return None
        found.append(None if stack is None else stack.tensor[row])
    return found


def by_row(
    multiplier: Multiplier, x: torch.Tensor, weight: Stack, bias: Stack | None, spans: Spans
) -> torch.Tensor:
    """Each token's rows times the matrix that it reads.

    x: (n, ..., I), tokens in order   weight: of (O, I)   bias: of (O,)  ->  (n, ..., O)
    """
    if multiplier.on_cpu and not spans.anywhere:
        return _by_runs(multiplier, x, weight, bias, spans)
    row = weight.rows.sole(spans)
    if row is None:
        out = _by_groups(multiplier, x, weight, spans)
    else:
        out = multiplier.linear(x, weight.tensor[row])
    if bias is None:
        return out
    own = bias.tensor.index_select(0, bias.rows.by_token(spans))  # (n, O)
    return out + own.view(own.shape[0], *[1] * (out.dim() - 2), -1)  # (n, ..., O)


def _by_runs(
    multiplier: Multiplier, x: torch.Tensor, weight: Stack, bias: Stack | None, spans: Spans
) -> torch.Tensor:
    """Like `by_row`, if the host knows the tokens: adds the bias before rounding."""
    flat = x.reshape(-1, x.shape[-1])  # (n * each, I)
    each = flat.shape[0] // spans.count  # rows of the product for one token
    vectors = None if bias is None else _alongside(bias, weight, spans)
    if bias is not None and vectors is None:
        parts = [
            multiplier.linear(
                flat[s.start * each : s.end * each],
                weight.tensor[weight.rows.of_place[s.place]],
                bias.tensor[bias.rows.of_place[s.place]],
            )
            for s in spans.segments
        ]
        out = torch.cat(parts)  # (n * each, O)
    else:
        groups = weight.rows.groups(spans, each)
        out = multiplier.grouped(flat, weight.tensor, groups, vectors)  # (n * each, O)
    return out.view(*x.shape[:-1], weight.tensor.shape[1])


def _alongside(bias: Stack, weight: Stack, spans: Spans) -> torch.Tensor | None:
    """The bias of each row of the weights, (R, O); None if biases are shared differently."""
    if bias.rows.num_rows == 1:
        return bias.tensor.expand(weight.rows.num_rows, -1)
    alike = all(
        weight.rows.of_place[s.place] == bias.rows.of_place[s.place] for s in spans.segments
    )
    return bias.tensor if alike else None


def _by_groups(
    multiplier: Multiplier, x: torch.Tensor, weight: Stack, spans: Spans
) -> torch.Tensor:
    """Like `by_row` without a bias, if only the device knows which token reads which row.

    A grouped product takes its groups in the order of the matrices. So tokens are sorted by row,
    and put back, unless each place has its own row, because they are sorted by place already.
    """
    order = weight.rows.order(spans)
    moved = x if order is None else x.index_select(0, order)  # (n, ..., I)
    flat = moved.reshape(-1, x.shape[-1])  # (n * each, I)
    each = flat.shape[0] // spans.count
    groups = Groups(ends=weight.rows.ends(spans) * each)
    out = multiplier.grouped(flat, weight.tensor, groups)  # (n * each, O)
    out = out.view(*x.shape[:-1], weight.tensor.shape[1])  # (n, ..., O)
    return out if order is None else torch.empty_like(out).index_copy_(0, order, out)


class StackedEmbedding(Leaf):
    """`nn.Embedding` of every place: one gather from the stacks seen as one long table."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        stack = self.stack("weight")
        row = stack.rows.sole(self.spans)
        if row is not None:
            return F.embedding(ids, stack.tensor[row])
        return looked_up(stack, self.spans, ids)


def looked_up(stack: Stack, spans: Spans, ids: torch.Tensor) -> torch.Tensor:
    """Lines of each token's own table.   ids: (1, T)   stack: of (V, H)  ->  (1, T, H)"""
    rows, vocabulary, width = stack.tensor.shape  # (R, V, H)
    index = ids + (stack.rows.by_token(spans) * vocabulary).view_as(ids)
    return F.embedding(index, stack.tensor.view(rows * vocabulary, width))


class StackedLayerNorm(Leaf):
    """`nn.LayerNorm` of every place: normalised once, scaled and shifted by token."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, original: nn.LayerNorm
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self.normalized_shape = original.normalized_shape
        self.eps = original.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spans = self.spans
        weight, bias = self.stack_or_none("weight"), self.stack_or_none("bias")
        chosen = sole_rows((weight, bias), spans)
        if chosen is not None:
            return F.layer_norm(x, self.normalized_shape, chosen[0], chosen[1], self.eps)
        out = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        if weight is not None:
            out = out * per_token(weight, spans, self.axes, x.dim())
        if bias is not None:
            out = out + per_token(bias, spans, self.axes, x.dim())
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
        """rows: compiled code for it, if available."""
        super().__init__(step, stacks, names, axes)
        self.eps = eps
        self._rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, spans = self.stack("weight"), self.spans
        if self._rows is not None and self._suits(x, weight.tensor):
            return self._rows.rms_norm(x, weight.tensor, weight.rows.by_token(spans), self.eps)
        row = weight.rows.sole(spans)
        out = F.rms_norm(x, x.shape[-1:], eps=self.eps)
        if row is not None:
            return out * weight.tensor[row]
        return out * per_token(weight, spans, self.axes, x.dim())

    def _suits(self, x: torch.Tensor, weight: torch.Tensor) -> bool:
        """Whether the compiled code can take these: rows must be in the order of tokens."""
        return (
            x.dtype is torch.bfloat16
            and weight.dtype is torch.bfloat16
            and x.is_contiguous()
            and x.shape[: self.axes.inputs[0]].numel() == 1
        )


class StackedRouter(Leaf):
    """A router of every place: the likeliest experts of a token by the softmax of its logits.

    sum_to_one: whether weights are shares of the chosen experts alone.   rounds: whether they are
    in the dtype of the model; else in float32
    """

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        axes: Axes,
        *,
        top_k: int,
        sum_to_one: bool,
        rounds: bool,
        multiplier: Multiplier,
        rows: Rows,
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._top_k = top_k
        self._sum_to_one = sum_to_one
        self._rounds = rounds
        self._multiplier = multiplier
        self._rows = rows

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = x.reshape(-1, x.shape[-1])  # (T, H)
        logits = by_row(self._multiplier, rows, self.stack("weight"), None, self.spans)  # (T, E)
        weights, chosen = self._rows.choose(logits, self._top_k, sum_to_one=self._sum_to_one)
        return logits, weights.to(logits.dtype) if self._rounds else weights, chosen


def per_token(stack: Stack, spans: Spans, axes: Axes, dims: int) -> torch.Tensor:
    """Weights by token, shaped to broadcast against a tensor of `dims` dimensions.

    stack: of (*p,)  ->  (1, …, n, …, 1, *p) with n at the token axis
    """
    axis = axes.inputs[0]
    assert axis is not None
    weights = stack.tensor.index_select(0, stack.rows.by_token(spans))  # (n, *p)
    count, *shape = weights.shape
    between = dims - axis - 1 - len(shape)
    return weights.view(*[1] * axis, count, *[1] * between, *shape)
