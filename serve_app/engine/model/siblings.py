"""Linear layers that read the same tensor, as queries, keys and values do: computed as one.

Which ones those are is seen in the trace. Their weights lie side by side, and keep their names.
"""

from collections.abc import Mapping, Sequence

import torch

from representation.architecture.anatomy import Anatomy
from representation.architecture.tracing import Axes
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.model.leaves import Leaf, Names, StackedLinear
from serve_app.engine.model.stacks import Stacks
from serve_app.engine.step.step import CurrentStep


class Siblings:
    """One product for layers that read the same tensor, handed out to them one by one."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        paths: Sequence[str],
        wholes: Mapping[str, torch.Tensor],
        sizes: Sequence[int],
        axes: Axes,
        multiplier: Multiplier,
    ) -> None:
        """paths: of the layers, in the order of calls   wholes: as of `side_by_side`

        sizes: outputs of each layer
        """
        self._stacks = stacks
        self._members = [f"{path}.{own}" for path in paths for own in wholes]
        names = {own: own for own in wholes}
        self._linear = StackedLinear(step, Stacks(dict(wholes), {}), names, axes, multiplier)
        self._sizes = list(sizes)
        self._input: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()

    def part(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """What layer `index` makes of x. Nothing is kept once the last layer has asked."""
        if self._input is not x:
            for name in self._members:  # those that are on their way to a place in the step
                self._stacks.ready(name)
            self._input = x
            self._parts = self._linear(x).split(self._sizes, dim=-1)
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
    anatomy: Anatomy,
    step: CurrentStep,
    stacks: Stacks,
    wholes: Mapping[tuple[str, ...], Mapping[str, torch.Tensor]],
    multiplier: Multiplier,
) -> dict[str, Leaf]:
    """Leaves of the linear layers whose weights lie side by side, by path.

    wholes: as of `allocate_stacks`
    """
    leaves: dict[str, Leaf] = {}
    for paths, whole in wholes.items():
        axes = anatomy.units[paths[0]]
        sizes = [anatomy.tensors[f"{path}.weight"][0][0] for path in paths]
        siblings = Siblings(step, stacks, paths, whole, sizes, axes, multiplier)
        for index, path in enumerate(paths):
            names = {own: f"{path}.{own}" for own in whole}
            leaves[path] = SiblingLinear(step, stacks, names, axes, siblings=siblings, index=index)
    return leaves
