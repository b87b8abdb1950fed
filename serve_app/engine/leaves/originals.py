"""Leaves that run a module's own code with the weights of several backbones.

`PerToken` runs it once for all tokens, for modules that only scale, shift and multiply rows by
matrices. `PerSegment` runs it once per backbone that is in the step: right for every architecture,
but slower. `fitting.py` decides which one a module gets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from representation.architecture.tracing.trace import Axes, tensors_in
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.leaves.leaves import (
    Leaf,
    Names,
    by_row,
    looked_up,
    per_token,
    sole_rows,
)
from serve_app.engine.stacks.stacks import Stack, Stacks
from serve_app.engine.step.spans import Segment, Spans
from serve_app.engine.step.step import CurrentStep


class Original:
    """A module's code, run with other weights in each call.

    Like `torch.func.functional_call`, which takes longer than a router or a norm.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self._module = module
        self._rooms: dict[str, tuple[dict[str, Any], str]] = {}
        for name in names:
            path, _, own = name.rpartition(".")
            owner = module.get_submodule(path)
            room = owner._parameters if own in owner._parameters else owner._buffers
            self._rooms[name] = (room, own)

    def __call__(self, weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        kept = [(room, own, room[own]) for room, own in self._rooms.values()]
        try:
            for name, weight in weights.items():
                room, own = self._rooms[name]
                room[own] = weight
            return self._module(*args, **kwargs)
        finally:
            for room, own, before in kept:
                room[own] = before


class Matrices:
    """A stack of matrices in place of one: each token is multiplied by its own.

    stack: of (O, I). It can be converted to another dtype and given to `F.linear`, or looked up in
    by `F.embedding`, nothing else.
    """

    def __init__(self, stack: Stack, spans: Spans, multiplier: Multiplier) -> None:
        self._stack = stack
        self._spans = spans
        self._multiplier = multiplier
        self.dtype = stack.tensor.dtype

    def to(self, dtype: torch.dtype) -> "Matrices":
        converted = Stack(self._stack.tensor.to(dtype), self._stack.rows)
        return Matrices(converted, self._spans, self._multiplier)

    type = to

    def float(self) -> "Matrices":
        return self.to(torch.float32)

    def linear(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x: (…, I), tokens in order   bias: (n, O), by token  ->  (…, O)"""
        rows = x.reshape(self._spans.count, -1, x.shape[-1])  # (n, each, I)
        out = by_row(self._multiplier, rows, self._stack, None, self._spans)  # (n, each, O)
        if bias is not None:
            out = out + bias.unsqueeze(1)
        return out.view(*x.shape[:-1], out.shape[-1])

    def embedding(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (1, T)  ->  (1, T, I), each token's line of its own matrix"""
        return looked_up(self._stack, self._spans, ids)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is F.linear:
            return _linear(*args, **(kwargs or {}))
        if function is F.embedding:
            return _embedding(*args, **(kwargs or {}))
        raise TypeError(f"matrices of several backbones are given to {function.__name__}")


def _linear(
    input: torch.Tensor,  # noqa: A002
    weight: Matrices,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`F.linear`, with the same argument names."""
    return weight.linear(input, bias)


def _embedding(input: torch.Tensor, weight: Matrices, *_: Any, **__: Any) -> torch.Tensor:  # noqa: A002
    """`F.embedding`, whose other arguments change gradients alone."""
    return weight.embedding(input)


class ByToken(torch.Tensor):
    """A vector that differs by token, (n, p). An index by token, (n, k), chooses of its own."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Any:
        by_token = isinstance(index, torch.Tensor) and index.dtype == torch.int64
        if by_token and index.dim() == 2 and len(index) == len(self):
            return torch.gather(self, 1, index)
        return super().__getitem__(index)


class PerToken(Leaf):
    """A module's original code, run once on all tokens, with weights that differ by token.

    For modules that use vectors only by broadcasting, or choose of them for each token, and
    matrices only by `F.linear` or `F.embedding`: norms, routers, scaled embeddings.
    """

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        axes: Axes,
        *,
        original: nn.Module,
        multiplier: Multiplier,
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._original = Original(original, names)
        self._multiplier = multiplier

    def forward(self, x: torch.Tensor) -> Any:
        spans = self.spans
        stacks = [self.stack(name) for name in self.names]
        weights: Sequence[Any] | None = sole_rows(stacks, spans)
        if weights is None:
            weights = [self._spread(stack, spans, x.dim()) for stack in stacks]
        return self._original(dict(zip(self.names, weights, strict=True)), x)

    def _spread(self, stack: Stack, spans: Spans, dims: int) -> Any:
        if stack.tensor.dim() == 3:
            return Matrices(stack, spans, self._multiplier)
        if not self.axes.keeps_shape:  # it is added to something with one row per token
            by_token = stack.tensor.index_select(0, stack.rows.by_token(spans))  # (n, *p)
            return by_token.as_subclass(ByToken)
        return per_token(stack, spans, self.axes, dims)


class PerSegment(Leaf):
    """A module's original code, run once for each backbone in the step."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, names: Names, axes: Axes, original: nn.Module
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._original = Original(original, names)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        spans = self.spans
        if spans.sole_place is not None:
            return self._run(spans.sole_place, args, kwargs)
        outs = []
        for segment in spans.segments:
            with self.step.running(self.step.only(segment, self.axes.stream)):
                outs.append(self._run(segment.place, *self._part(segment, args, kwargs)))
        return self._joined(outs)

    def _run(self, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stacks = {name: self.stack(name) for name in self.names}
        weights = {name: s.tensor[s.rows.of_place[place]] for name, s in stacks.items()}
        return self._original(weights, *args, **kwargs)

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
