"""The lists of layers of a stock model, and what their layers are called with. Runs no layer.

A decoder has one list. An encoder–decoder has two, the encoder's first; layers of the second are
also called with what the encoder gives.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from consolidation.errors import Refused
from representation.encoder_decoder.both_stacks import is_encoder_decoder
from representation.encoder_decoder.position_bias import num_biases

Keywords = Mapping[str, Any]
"""What a layer is called with, beside its input."""
ENCODED = "encoder_hidden_states"
"""How transformers calls what the encoder gives, where layers of a decoder are called with it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer. `experts`: which of the layers with experts it is; None if it has none.

    number: among the layers of all lists.   in_list: the number of its list.   num_biases: how
    many position biases it returns behind its output.
    """

    number: int
    in_list: int
    path: str
    module: nn.Module
    forward: Callable[..., Any]
    experts: int | None
    num_biases: int

    def returned(self, hidden: Any) -> Any:
        """What it returns, with this output. Biases are left out: each layer computes its own."""
        return (hidden, *[None] * self.num_biases) if self.num_biases else hidden

    def output(self, returned: Any) -> Any:
        """The output among what it returned."""
        if isinstance(returned, tuple) and len(returned) == 1 + self.num_biases > 1:
            return returned[0]
        return returned


@dataclass(frozen=True, slots=True)
class Entered:
    """What a list's first layer is given, and what each of its layers is called with.

    hidden: (B, T, H)   encoded: (B, E, H), what all of them are called with as `ENCODED` besides
    """

    hidden: torch.Tensor
    calls: tuple[Keywords, ...]
    encoded: torch.Tensor | None


def layer_lists(model: Any, experts: Sequence[str]) -> tuple[tuple[Layer, ...], ...]:
    """The lists of layers of a model, in the order of its forward.

    experts: the paths of its experts.   Raises `Refused` unless each list has some.
    """
    name = type(model).__name__
    found: dict[str, dict[int, int]] = {}
    for number, path in enumerate(experts):
        match = re.match(r"(.*?)\.(\d+)\.", path)
        if match is None:
            raise Refused(f"{name}: {path} is in no list of layers")
        found.setdefault(match.group(1), {})[int(match.group(2))] = number
    if len(found) != (2 if is_encoder_decoder(model) else 1):
        raise Refused(f"{name}: its experts are in other lists of layers: {', '.join(found)}")
    lists: list[tuple[Layer, ...]] = []
    number = 0
    for in_list, (path, with_experts) in enumerate(found.items()):
        layers = []
        for place, module in enumerate(model.get_submodule(path)):
            inside, own = f"{path}.{place}", with_experts.get(place)
            biases = num_biases(module)
            layers.append(Layer(number, in_list, inside, module, module.forward, own, biases))
            number += 1
        lists.append(tuple(layers))
    return tuple(lists)
