"""Which leaf a module gets: the fast form where it proves equal to the original, else the slow."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from serve_app.engine.integers import Integers
from serve_app.engine.leaves import (
    Leaf,
    Names,
    PerSegment,
    PerToken,
    StackedEmbedding,
    StackedLayerNorm,
    StackedLinear,
    Stacks,
)
from serve_app.engine.matmul import Multiplier
from serve_app.engine.step import CurrentStep, Spans, StepView
from serve_app.engine.tracing import TRACED_OUTPUTS, TRACED_TOKENS, Axes

logger = logging.getLogger(__name__)
PROBE_PLACES = [0, 0, 1, 1, 1]
PROBE_SIZE = 64
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class Fitter:
    """Makes the leaf for each module of a model, and checks each kind once on random input."""

    def __init__(
        self, step: CurrentStep, stacks: Stacks, multiplier: Multiplier, device: torch.device
    ) -> None:
        self._step = step
        self._stacks = stacks
        self._multiplier = multiplier
        self._device = device
        self._checked: dict[tuple[Any, ...], bool] = {}
        self.slow: list[str] = []

    def leaf(self, path: str, module: nn.Module, names: Names, axes: Axes) -> Leaf:
        """The leaf for a module; the slow form, with a warning, where the fast one differs."""
        make = fast_form(module, axes, self._multiplier)
        if make is not None:
            if self._equal(module, axes, make):
                return make(self._step, self._stacks, names, axes)
            logger.warning(
                "%s (%s): its fast form differs from the original on random input; it runs once "
                "per model instead",
                path,
                type(module).__name__,
            )
        self.slow.append(path)
        return PerSegment(self._step, self._stacks, names, axes, module)

    def _equal(self, module: nn.Module, axes: Axes, make: Callable[..., Leaf]) -> bool:
        shapes = tuple((n, tuple(t.shape), t.dtype) for n, t in module.state_dict().items())
        key = (type(module), shapes, len(axes.shape), axes.inputs)
        if key not in self._checked:
            self._checked[key] = equals_original(module, axes, make, self._device)
        return self._checked[key]


def fast_form(module: nn.Module, axes: Axes, multiplier: Multiplier) -> Callable[..., Leaf] | None:
    """How to make the module's fast form; None where it has none."""
    if type(module) is nn.Linear:
        return partial(StackedLinear, multiplier=multiplier)
    if type(module) is nn.Embedding:
        return StackedEmbedding
    if type(module) is nn.LayerNorm:
        return partial(StackedLayerNorm, original=module)
    vectors = all(tensor.dim() == 1 for tensor in module.state_dict().values())
    if vectors and axes.keeps_shape and not list(module.children()):
        return partial(PerToken, original=module)
    return None


def equals_original(
    module: nn.Module, axes: Axes, make: Callable[..., Leaf], device: torch.device
) -> bool:
    """Whether the fast form of two random sets of weights gives what the original code gives.

    Matrices are cut to a few rows and columns: the form of the code is what is checked.
    """
    generator = torch.Generator().manual_seed(0)
    module, shape = _small(module, axes)
    weights = {
        name: torch.randn((2, *tensor.shape), generator=generator).to(device, tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    axis = axes.inputs[0]
    assert axis is not None
    if isinstance(module, nn.Embedding):
        x = torch.randint(0, module.num_embeddings, shape, generator=generator).to(device)
    else:
        dtype = next(iter(weights.values())).dtype
        x = torch.randn(shape, generator=generator).to(device, dtype)
    step = CurrentStep()
    leaf = make(step, Stacks(weights, {}), {name: name for name in weights}, axes)
    integers = Integers(device)
    spans = Spans.of(PROBE_PLACES, PROBE_PLACES, 2, integers)
    integers.send()
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    view = StepView(spans, spans, nothing, nothing, nothing, nothing)
    with torch.no_grad(), step.running(view):
        try:
            got = leaf(x)
        except RuntimeError:
            return False
        parts = [
            functional_call(
                module,
                {name: stack[s.place] for name, stack in weights.items()},
                (x.narrow(axis, s.start, s.length),),
            )
            for s in spans.segments
        ]
    expected = torch.cat(parts, dim=axes.results[0] or 0)
    if got.shape != expected.shape:
        return False
    tolerance = TOLERANCE[got.dtype]
    return torch.allclose(got, expected, rtol=tolerance, atol=tolerance * 10)


def _small(module: nn.Module, axes: Axes) -> tuple[nn.Module, tuple[int, ...]]:
    """The module, its matrices cut; and the shape of an input of five tokens."""
    marks = (TRACED_TOKENS, TRACED_OUTPUTS)
    shape = [len(PROBE_PLACES) if size in marks else size for size in axes.shape]
    with torch.device("meta"):
        if isinstance(module, nn.Linear):
            width = min(module.in_features, PROBE_SIZE)
            height = min(module.out_features, PROBE_SIZE)
            bias = module.bias is not None
            module = nn.Linear(width, height, bias=bias, dtype=module.weight.dtype)
            shape[-1] = width
        elif isinstance(module, nn.Embedding):
            module = nn.Embedding(PROBE_SIZE, PROBE_SIZE, dtype=module.weight.dtype)
    return module, tuple(shape)
