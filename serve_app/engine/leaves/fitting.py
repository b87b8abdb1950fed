"""Chooses a module's leaf: the fast form if it proves equal to the original, else the slow one."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from representation.architecture.skeleton import own_tensors
from representation.architecture.tracing.trace import STREAMS, Axes, tensors_in
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.native.library import Native
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.device.trial import first_equal, leaf_difference
from serve_app.engine.leaves.leaves import (
    Leaf,
    Names,
    StackedEmbedding,
    StackedLayerNorm,
    StackedLinear,
    StackedRMSNorm,
    StackedRouter,
)
from serve_app.engine.leaves.originals import PerSegment, PerToken
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.step.integers import Integers
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import CurrentStep, StepView

logger = logging.getLogger(__name__)
MakeLeaf = Callable[..., Leaf]
"""Takes the running step, the stacks, names in them, and token axes."""
PROBE_PLACES = [0, 0, 1, 1, 1]
PROBE_SIZE = 64


class Fitter:
    """Makes the leaf for each module of a model, and checks each kind once on random input."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        multiplier: Multiplier,
        device: torch.device,
        native: Native | None = None,
    ) -> None:
        self._step = step
        self._stacks = stacks
        self._multiplier = multiplier
        self.device = device
        self.native = native
        self._rows = None if native is None else Rows(native)
        self._found: dict[tuple[Any, ...], int | None] = {}

    def leaf(self, path: str, module: nn.Module, names: Names, axes: Axes) -> Leaf:
        """The leaf for a module. If the fast form differs, warns and returns the slow one."""
        forms = fast_forms(module, axes, self._multiplier, self._rows)
        if forms:
            chosen = self._first_equal(module, axes, forms)
            if chosen is not None:
                return forms[chosen](self._step, self._stacks, names, axes)
            logger.warning(
                "%s (%s): its fast form differs from the original on random input; it runs once "
                "per model instead",
                path,
                type(module).__name__,
            )
        return PerSegment(self._step, self._stacks, names, axes, module)

    def _first_equal(self, module: nn.Module, axes: Axes, forms: Sequence[MakeLeaf]) -> int | None:
        shapes = tuple((n, tuple(t.shape), t.dtype) for n, t in module.state_dict().items())
        key = (type(module), shapes, len(axes.shape), axes.inputs)
        if key not in self._found:
            self._found[key] = first_equal(
                range(len(forms)),
                lambda index: difference(module, axes, forms[index], self.device),
                lambda index, why: logger.info(
                    "%s, form %d: %s", type(module).__name__, index, why
                ),
            )
        return self._found[key]


def fast_forms(
    module: nn.Module, axes: Axes, multiplier: Multiplier, rows: Rows | None
) -> Sequence[MakeLeaf]:
    """How to make the fast forms that suit the module, the fastest first."""
    if type(module) is nn.Linear:
        return [partial(StackedLinear, multiplier=multiplier)]
    if type(module) is nn.Embedding:
        return [StackedEmbedding]
    if type(module) is nn.LayerNorm:
        return [partial(StackedLayerNorm, original=module)]
    shapes = {name: tensor.dim() for name, tensor in module.state_dict().items()}
    per_token = partial(PerToken, original=module, multiplier=multiplier)
    if max(shapes.values(), default=0) > 2 or len(axes.inputs) != 1:
        return []
    if isinstance(module, nn.Embedding):
        return [per_token]
    if list(module.children()):
        return [per_token] if _is_of_linears(module) else []
    if list(shapes.values()) == [2]:
        return [*_routers(module, multiplier, rows), per_token]
    if 2 in shapes.values():
        return [per_token]
    if not axes.keeps_shape:
        return []
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if list(shapes) == ["weight"] and isinstance(eps, float):
        return [partial(StackedRMSNorm, eps=eps, rows=rows), per_token]
    return [per_token]


def _is_of_linears(module: nn.Module) -> bool:
    """Whether all weights of the module's parts are those of linear layers."""
    parts = [part for part in module.modules() if part is not module and any(own_tensors(part))]
    return bool(parts) and all(type(part) is nn.Linear for part in parts)


def _routers(
    module: nn.Module, multiplier: Multiplier, rows: Rows | None
) -> Iterator[Callable[..., StackedRouter]]:
    """The ways in which compiled code can route, for a module that may be a router."""
    top_k, weight = getattr(module, "top_k", None), getattr(module, "weight", None)
    if rows is None or not isinstance(top_k, int) or weight is None:
        return
    if weight.dtype != torch.bfloat16:
        return
    for sum_to_one, rounds in product((False, True), (False, True)):
        yield partial(
            StackedRouter,
            top_k=top_k,
            sum_to_one=sum_to_one,
            rounds=rounds,
            multiplier=multiplier,
            rows=rows,
        )


def difference(module: nn.Module, axes: Axes, make: MakeLeaf, device: torch.device) -> str | None:
    """How the fast form differs from the original code on two random sets of weights, or None.

    Matrices are cut to a few rows and columns, because the check is of the code. If there are
    several outputs, some may be choices, which rounding changes, so they are checked in float32.
    Routers in compiled code are checked on logits that need no rounding.
    """
    module, shape = _small(module, axes)
    if getattr(make, "func", None) is StackedRouter:
        weights, x = _unrounded(module, shape)
    else:
        weights, x = _random(module, shape, exact=len(axes.results) > 1)
    weights, x = {name: each.to(device) for name, each in weights.items()}, x.to(device)
    axis = axes.inputs[0]
    assert axis is not None
    step = CurrentStep()
    stacks, names = Stacks.each_its_own(weights), {name: name for name in weights}
    leaf = make(step, stacks, names, replace(axes, stream="tokens"))
    integers = Integers(device)
    spans = Spans.of(PROBE_PLACES, PROBE_PLACES, 2, integers)
    integers.send()
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    view = StepView(spans, spans, nothing, nothing, nothing, nothing)
    with torch.no_grad(), step.running(view):
        try:
            got = tensors_in(leaf(x))
        except (RuntimeError, TypeError, AttributeError) as error:
            return f"it fails: {error}"  # a form of code that does not suit the leaf
        parts = [
            tensors_in(
                functional_call(
                    module,
                    {name: stack[s.place] for name, stack in weights.items()},
                    (x.narrow(axis, s.start, s.length),),
                )
            )
            for s in spans.segments
        ]
    wanted = [
        torch.cat(column, dim=axis or 0)
        for column, axis in zip(zip(*parts, strict=True), axes.results, strict=True)
    ]
    if len(got) != len(wanted):
        return f"it gives {len(got)} tensors, not {len(wanted)}"
    return next(filter(None, map(leaf_difference, got, wanted)), None)


def _random(
    module: nn.Module, shape: tuple[int, ...], *, exact: bool
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Two random sets of a module's weights, and an input.   exact: in float32"""
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn((2, *_probed(module, tensor)), generator=generator).to(
            torch.float32 if exact else tensor.dtype
        )
        for name, tensor in module.state_dict().items()
    }
    if isinstance(module, nn.Embedding):
        lines = {tensor.shape[1] for tensor in weights.values()}
        return weights, torch.randint(0, min(lines), shape, generator=generator)
    dtype = next(iter(weights.values())).dtype
    return weights, torch.randn(shape, generator=generator).to(dtype)


def _probed(module: nn.Module, tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape of a module's tensor, or of the first lines of a table."""
    if not isinstance(module, nn.Embedding):
        return tuple(tensor.shape)
    least = max(PROBE_SIZE, 1 + (module.padding_idx or 0))
    return (min(least, tensor.shape[0]), *tensor.shape[1:])


def _unrounded(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The same for a router: the logits of a token are different multiples of 1/8."""
    generator = torch.Generator().manual_seed(0)
    ((name, matrix),) = module.state_dict().items()
    order = torch.rand((2, *matrix.shape), generator=generator).argsort(dim=1)  # (2, E, H)
    taken = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    x = F.one_hot(taken, shape[-1])  # (…, H), which takes one column
    return {name: (order / 8).to(matrix.dtype)}, x.to(matrix.dtype)


def _small(module: nn.Module, axes: Axes) -> tuple[nn.Module, tuple[int, ...]]:
    """The module with its matrices cut, and the shape of an input of five tokens."""
    shape = [len(PROBE_PLACES) if size in STREAMS else size for size in axes.shape]
    with torch.device("meta"):
        if type(module) is nn.Linear:
            width = min(module.in_features, PROBE_SIZE)
            height = min(module.out_features, PROBE_SIZE)
            bias = module.bias is not None
            module = nn.Linear(width, height, bias=bias, dtype=module.weight.dtype)
            shape[-1] = width
        elif type(module) is nn.Embedding:
            module = nn.Embedding(PROBE_SIZE, PROBE_SIZE, dtype=module.weight.dtype)
    return module, tuple(shape)
