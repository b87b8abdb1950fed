"""Computes linear layers that read the same tensor, like queries, keys and values, as one.

The trace shows which ones these are. Their weights are side by side, and keep their names.
"""

from collections.abc import Sequence

import torch

from representation.architecture.anatomy import Anatomy
from representation.architecture.tracing.trace import Axes
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.leaves.leaves import Leaf, Names, StackedLinear
from serve_app.engine.stacks.stack_shapes import joined_siblings
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.step.step import CurrentStep


class Siblings:
    """One product for layers that read the same tensor, which then take their parts one by one."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        paths: Sequence[str],
        owns: Sequence[str],
        sizes: Sequence[int],
        axes: Axes,
        multiplier: Multiplier,
    ) -> None:
        """paths: of the layers, in the order of calls   owns: "weight", and "bias" if they have any

        sizes: outputs of each layer
        """
        self._stacks = stacks
        self._others = [f"{path}.{own}" for path in paths[1:] for own in owns]
        names = {own: f"{paths[0]}.{own}" for own in owns}  # of what lies in one stack, the first
        self._linear = StackedLinear(step, stacks, names, axes, multiplier)
        self._sizes = list(sizes)
        self._input: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """The output of layer `index` for x. Forgets everything once the last layer has asked."""
        if self._input is not x:
            for name in self._others:  # those that are on their way to a place in the step
                self._stacks.ready(name)
            self._input = x
            self._parts = self._linear(x).split(self._sizes, dim=-1)  # (…, O) each
        part = self._parts[index].contiguous()
        if index == len(self._sizes) - 1:
            self._input, self._parts = None, ()
        return part


class SiblingLinear(Leaf):
    """`nn.Linear` of every place, computed with its siblings."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        axes: Axes,
        *,
        siblings: Siblings,
        index: int,
    ) -> None:
        super().__init__(step, stacks, names, axes)
        self._siblings = siblings
        self._index = index

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._siblings.part(self._index, x)


def sibling_leaves(
    anatomy: Anatomy, step: CurrentStep, stacks: Stacks, multiplier: Multiplier
) -> dict[str, Leaf]:
    """Leaves of the linear layers whose weights are side by side, by path."""
    leaves: dict[str, Leaf] = {}
    for paths in joined_siblings(anatomy):
        axes = anatomy.units[paths[0]]
        owns = [own for own in ("weight", "bias") if f"{paths[0]}.{own}" in anatomy.tensors]
        sizes = [anatomy.tensors[f"{path}.weight"][0][0] for path in paths]
        siblings = Siblings(step, stacks, paths, owns, sizes, axes, multiplier)
        for index, path in enumerate(paths):
            names = {own: f"{path}.{own}" for own in owns}
            leaves[path] = SiblingLinear(step, stacks, names, axes, siblings=siblings, index=index)
    return leaves
