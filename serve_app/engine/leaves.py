"""Leaves with the weights of several backbones, put where a stock model had one of each.

Fast forms: `StackedLinear`, `StackedEmbedding`, `StackedLayerNorm`, and `PerToken` for modules
that only scale and shift. `PerSegment` runs any module's original code once per backbone that is
in the step: right for every architecture, slower. `fitting.py` decides which one a module gets.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from serve_app.engine.arrivals import Arrival
from serve_app.engine.grouped import Groups
from serve_app.engine.matmul import Multiplier
from serve_app.engine.step import CurrentStep, Segment, Spans
from serve_app.engine.tracing import Axes, tensors_in

Names = Mapping[str, str]
"""A module's own tensor names -> names of the stacks that hold them."""


class Stacks:
    """Tensors of all backbone places, by the name that a checkpoint gives them.

    Each is (S, *shape), S places. Tied tensors are one stack under several names.
    awaited: what is on its way to places of the running step.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
        self._tensors = tensors
        self._aliases = aliases
        self.awaited: tuple[Arrival, ...] = ()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[self.canonical(name)]

    def ready(self, name: str) -> torch.Tensor:
        """A stack to compute with: what the running step reads of it has arrived."""
        for arrival in self.awaited:
            arrival.wait(self.canonical(name))
        return self[name]

    def canonical(self, name: str) -> str:
        """The one name of a tied stack."""
        return self._aliases.get(name, name)

    def names(self) -> Iterable[str]:
        """Names of the stacks, each once."""
        return self._tensors.keys()

    def replace(self, name: str, tensor: torch.Tensor) -> None:
        """Put another tensor in a stack's stead (a larger vocabulary, say)."""
        self._tensors[self.canonical(name)] = tensor

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors.values())


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
        return self._product(rows, weight, bias).movedim(0, axis)

    def _product(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """rows: (n, ..., I)   weight: (S, O, I)   bias: (S, O)  ->  (n, ..., O)"""
        flat = rows.reshape(-1, rows.shape[-1])
        each = flat.shape[0] // rows.shape[0]  # rows of the product for one token
        if rows.device.type == "cpu":
            runs = tuple((s.place, s.start * each, s.end * each) for s in self.spans.segments)
            out = self._multiplier.grouped(flat, weight, Groups(runs), bias)
            return out.view(*rows.shape[:-1], -1)
        groups = Groups(ends=self.spans.ends * each)
        out = self._multiplier.grouped(flat, weight, groups).view(*rows.shape[:-1], -1)
        if bias is None:
            return out
        shape = (rows.shape[0], *[1] * (rows.dim() - 2), bias.shape[-1])
        return out + bias[self.spans.places].view(shape)


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


class PerToken(Leaf):
    """A module's original code, run once on all tokens, with weights that differ by token.

    For modules that use their weights by broadcasting alone, as RMS norms do.
    """

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, original: nn.Module
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._original = (original,)  # in a tuple, so that it is not a submodule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spans = self.spans
        place = spans.sole_place
        if place is not None:
            weights = {name: self.stack(name)[place] for name in self.names}
        else:
            weights = {
                name: per_token(self.stack(name), spans.places, self.axes, x.dim())
                for name in self.names
            }
        out = functional_call(self._original[0], weights, (x,))
        assert isinstance(out, torch.Tensor)
        return out


class PerSegment(Leaf):
    """A module's original code, run once for each backbone that is in the step."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, original: nn.Module
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._original = (original,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        spans = self.spans
        if spans.sole_place is not None:
            return self._run(spans.sole_place, args, kwargs)
        outs = []
        for segment in spans.segments:
            with self.step.running(self.step.only(segment)):
                outs.append(self._run(segment.place, *self._part(segment, args, kwargs)))
        return self._joined(outs)

    def _run(self, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        weights = {name: self.stack(name)[place] for name in self.names}
        return functional_call(self._original[0], weights, args, kwargs)

    def _part(
        self, segment: Segment, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        axes = iter(self.axes.inputs)

        def part(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            axis = next(axes)
            return value if axis is None else value.narrow(axis, segment.start, segment.length)

        return tuple(part(value) for value in args), {k: part(v) for k, v in kwargs.items()}

    def _joined(self, outs: list[Any]) -> Any:
        if isinstance(outs[0], torch.Tensor):
            axis = self.axes.results[0]
            assert axis is not None
            return torch.cat(outs, dim=axis)
        columns = zip(*(tensors_in(out) for out in outs), strict=True)
        joined = [
            torch.cat(column, dim=axis)
            for column, axis in zip(columns, self.axes.results, strict=True)
            if axis is not None
        ]
        return tuple(joined)


def per_token(stack: torch.Tensor, places: torch.Tensor, axes: Axes, dims: int) -> torch.Tensor:
    """Weights by token, shaped to broadcast against a tensor of `dims` dimensions.

    stack: (S, *p)   places: (n,)  ->  (1, …, n, …, 1, *p) with n at the token axis
    """
    axis = axes.inputs[0]
    assert axis is not None
    weights = stack[places]
    between = dims - axis - 1 - (stack.dim() - 1)
    return weights.view(*[1] * axis, len(places), *[1] * between, *stack.shape[1:])
