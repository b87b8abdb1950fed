"""Finds a model's experts through transformers' experts interface. Computes no expert.

https://github.com/huggingface/transformers, `integrations/moe.py`: a class that
`use_experts_implementation` wraps stacks its experts' matrices, and describes their layout with a
few attributes.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from representation.architecture.errors import Unservable
from representation.architecture.skeleton import own_tensors
from representation.architecture.tracing.trace import Stream
from representation.formats import ExpertShape
from representation.layout import Layout

MARKS = frozenset({"has_gate", "has_bias", "is_transposed"})
"""Attributes that `use_experts_implementation` sets on each instance it wraps."""


@dataclass(frozen=True, slots=True)
class ExpertsModule:
    """One layer's experts in the transformers model. `layout` is None if it is an unknown one.

    stream: of which tokens they are asked.
    """

    module: str
    num_experts: int
    shape: ExpertShape
    layout: Layout | None
    stream: Stream = "tokens"


def find_experts(skeleton: nn.Module) -> dict[str, ExpertsModule]:
    """The experts modules by qualified name, in order of layers. Raises: Unservable."""
    found = {
        path: experts_module(path, module)
        for path, module in skeleton.named_modules()
        if vars(module).keys() >= MARKS
    }
    if not found:
        kind = type(skeleton).__name__
        if any("expert" in path for path, _ in skeleton.named_modules()):
            raise Unservable(
                f"{kind} has no experts that go through transformers' experts interface"
            )
        raise Unservable(f"{kind} has no experts: it is not a mixture of experts")
    return found


def experts_module(path: str, module: Any) -> ExpertsModule:
    """What the experts module at a path holds. Raises: Unservable, naming what cannot be served."""
    if getattr(module, "has_post_expert_norm", False):
        raise Unservable(f"{path} has a norm after each expert")
    first = "gate_up_proj" if module.has_gate else "up_proj"
    wanted = {first, "down_proj"}
    if module.has_bias:
        wanted |= {f"{name}_bias" for name in wanted}
    for inner, part in module.named_modules():
        for name in own_tensors(part):
            if inner or name not in wanted:
                name = f"{inner}.{name}" if inner else name
                raise Unservable(f"{path} owns {name!r}, which is no part of one of its experts")
    shapes = {key: tuple(p.shape) for key, p in module.named_parameters(recurse=False)}
    missing = sorted(wanted - shapes.keys())
    if missing:
        raise Unservable(f"{path} has no {missing[0]!r}")
    counts = {size[0] for size in shapes.values()}
    if len(counts) != 1:
        raise Unservable(f"parameters of {path} differ in their number of experts")
    try:
        shape = ExpertShape({k: size[1:] for k, size in shapes.items()}, bool(module.is_transposed))
    except ValueError as error:
        raise Unservable(f"{path}: {error}") from error
    return ExpertsModule(path, counts.pop(), shape, _layout(module, shape))


def _layout(module: Any, shape: ExpertShape) -> Layout | None:
    """Asks the module itself: a NaN in a weight shows which neuron it reaches."""
    if not module.has_gate:
        return "single"
    num_neurons = shape.matrix("down_proj")[1]
    columns = [0, 1, num_neurons, 2 * num_neurons - 1]
    given = torch.zeros(len(columns), 2 * num_neurons)
    given[range(len(columns)), columns] = math.nan
    reached = module._apply_gate(given).isnan()
    if reached.shape != (len(columns), num_neurons) or not bool((reached.sum(1) == 1).all()):
        return None
    found = reached.int().argmax(1).tolist()
    if found == [column % num_neurons for column in columns]:
        return "halves"
    return "pairs" if found == [column // 2 for column in columns] else None
