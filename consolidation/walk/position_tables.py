"""Lets layers compute their own position biases, by the table of their list's first layer.

In a stock model the first layer of a list computes them and hands them on. Layers that are filled
one at a time would have to be handed tensors of (heads, T, T) for each input; the table is small.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from consolidation.walk.filling import Filling
from consolidation.walk.layers import Layer
from representation.encoder_decoder.position_bias import TABLE, borrow_table, has_table


class PositionTables:
    """The tables of a model's lists of layers, each in its first layer; empty for most models.

    read: gives the tensors of a layer by their names inside it.
    """

    def __init__(
        self,
        lists: Sequence[Sequence[Layer]],
        read: Callable[[Layer], dict[str, torch.Tensor]],
    ) -> None:
        self._read = read
        self._owners = [list(_borrowed(layers)) for layers in lists]
        self._first = [layers[0] for layers in lists]
        self._tensors: dict[int, list[torch.Tensor]] = {}

    def fill(self, layer: Layer, filling: Filling) -> None:
        """Put the tables into the first layer that a later one, which is filled, computes with."""
        first = self._first[layer.in_list]
        owners = self._owners[layer.in_list]
        if layer is first or not owners:
            return
        if layer.in_list not in self._tensors:
            tensors = self._read(first)
            names = [f"{inside}.{TABLE}.weight" for inside, _ in owners]
            self._tensors[layer.in_list] = [tensors[name].clone() for name in names]
        for (_, module), tensor in zip(owners, self._tensors[layer.in_list], strict=True):
            filling.put(getattr(module, TABLE), "weight", tensor)


def _borrowed(layers: Sequence[Layer]) -> Iterator[tuple[str, Any]]:
    """The modules of the first layer that have a table, which the other layers now use."""
    for inside, module in layers[0].module.named_modules():
        if has_table(module):
            for layer in layers[1:]:
                borrow_table(layer.module.get_submodule(inside), module)
            yield inside, module
