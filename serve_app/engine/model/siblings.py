"""Linear layers that read the same tensor, as queries, keys and values do: computed as one.

Which ones those are is seen in the trace. Their weights lie side by side, and keep their names.
"""

from collections.abc import Mapping, Sequence

import torch

from representation.architecture.tracing import Axes
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.device.pages import zeros
from serve_app.engine.model.leaves import Leaf, Names, StackedLinear, Stacks
from serve_app.engine.step.step import CurrentStep

Kinds = Mapping[str, tuple[torch.Size, torch.dtype]]


def alike(paths: Sequence[str], tensors: Kinds, tied: Mapping[str, str]) -> bool:
    """Whether the weights of linear layers can lie side by side.

    tensors: shape and dtype of each, by name   tied: names that are another tensor's
    """
    names = [f"{path}.weight" for path in paths]
    if any(name not in tensors or name in tied or name in tied.values() for name in names):
        return False
    kinds = {(tensors[name][0][1], tensors[name][1]) for name in names}
    return len(kinds) == 1 and len({f"{path}.bias" in tensors for path in paths}) == 1


def side_by_side(
    paths: Sequence[str], tensors: Kinds, num_places: int, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Zeroed stacks for the layers' tensors: by their names, and as a whole by "weight", "bias".

    Each stack, (S, O, …), is a part of the whole, (S, sum of O, …).
    """
    parts: dict[str, torch.Tensor] = {}
    wholes: dict[str, torch.Tensor] = {}
    for own in ("weight", "bias"):
        names = [f"{path}.{own}" for path in paths if f"{path}.{own}" in tensors]
        if not names:
            continue
        sizes = [tensors[name][0][0] for name in names]
        (_, *others), dtype = tensors[names[0]]
        whole = zeros((num_places, sum(sizes), *others), dtype=dtype, device=device)
        parts |= dict(zip(names, whole.split(sizes, dim=1), strict=True))
        wholes[own] = whole
    return parts, wholes


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
