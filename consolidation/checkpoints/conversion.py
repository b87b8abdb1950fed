"""Makes a transformers model's parameters from stored tensors, by its conversion registry.

One `Conversion` makes one parameter (or the few that one converter makes together) from the stored
tensors it needs. Nothing is read before `read` or `read_expert`. Accounting for all tensors of a
checkpoint is in `consolidation/checkpoints/accounting.py`.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from transformers.core_model_loading import (
    Concatenate,
    Interleave,
    MergeModulelist,
    Transpose,
    WeightConverter,
)

from consolidation.arithmetic.factors import Factors
from consolidation.checkpoints.tensor_file import SourceTensor

LATER_DIMENSIONS = (Concatenate, Interleave, Transpose)
"""Operations that leave dimension 0, the experts', alone if they work on later dimensions."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What converters read of a model: the config, and shapes of parameters by name."""

    config: Any
    shapes: dict[str, tuple[int, ...]]

    def get_parameter(self, name: str) -> torch.Tensor:
        """A parameter's shape as a tensor without data, which some of its operations look at."""
        return torch.empty(self.shapes[name], device="meta")

    def of_one_expert(self, name: str) -> "Shapes":
        """The same, where a stack of experts has one alone."""
        return Shapes(self.config, {**self.shapes, name: (1, *self.shapes[name][1:])})


class Update(Protocol):
    """What is added to a parameter after it was read."""

    def changes(self, index: int) -> bool:
        """Whether anything is added to an expert's matrix. Reads nothing."""

    def factors(self, index: int | None) -> Factors | None:
        """Those of what is added to an expert's matrix; None: nothing."""

    def onto(self, tensor: torch.Tensor, index: int | None = None) -> torch.Tensor:
        """The parameter, or with `index` one expert's part of it, with what is added."""


@dataclass(frozen=True)  # without slots: what experts share is found once
class Conversion:
    """How parameter `target` is made of `sources`: (pattern of the converter, stored tensor).

    `transform` is transformers' own, without tensors; it is copied for each use. `updates` are
    added to what it makes, by parameter.
    """

    target: str
    transform: Any
    sources: tuple[tuple[str, SourceTensor], ...]
    shapes: Shapes
    updates: Mapping[str, Update] = field(default_factory=dict)

    def read(self) -> dict[str, torch.Tensor]:
        """The parameters by name, read and converted."""
        made = self._convert([(pattern, stored.read()) for pattern, stored in self.sources])
        return made | {name: update.onto(made[name]) for name, update in self.updates.items()}

    def shape(self) -> dict[str, torch.Tensor]:
        """Like `read`, without data: the names, shapes and dtypes of the parameters."""
        return self._convert([(pattern, stored.meta()) for pattern, stored in self.sources])

    def read_expert(self, index: int, *, wide: bool = False) -> torch.Tensor:
        """`read()[target][index]`; reads no other expert where the layout permits.

        wide: where something is added, the sum in float32, not rounded.
        """
        found = self._read_expert(index)
        update = self.updates.get(self.target)
        if update is None or not update.changes(index):
            return found
        return update.onto(found.float() if wide else found, index)

    def _read_expert(self, index: int) -> torch.Tensor:
        if not self._is_expertwise:
            made = self._convert([(pattern, stored.read()) for pattern, stored in self.sources])
            return made[self.target][index].clone()
        part = [
            (pattern, stored.read() if self._is_listed else stored.read(index))
            for pattern, stored in self._sources_of_expert(index)
        ]
        shapes = self.shapes.of_one_expert(self.target)
        return converted(self.transform, self.target, shapes, part)[self.target][0]

    def _convert(self, tensors: Sequence[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return converted(self.transform, self.target, self.shapes, tensors)

    @cached_property
    def _is_listed(self) -> bool:
        """Whether experts are stored one by one, as tensors without an expert dimension."""
        return isinstance(self.transform, WeightConverter) and _merges(self.transform.operations[0])

    @cached_property
    def _is_expertwise(self) -> bool:
        """Whether dimension 0 stays that of the experts through the whole conversion."""
        if not isinstance(self.transform, WeightConverter):
            return True
        first, *rest = self.transform.operations
        later = rest if _merges(first) else [first, *rest]
        single = {pattern for pattern, _ in self.sources}
        return all(_leaves_first_dimension(op) for op in later) and (
            _merges(first) or len(single) == len(self.sources)
        )

    def _sources_of_expert(self, index: int) -> list[tuple[str, SourceTensor]]:
        if not self._is_listed:
            return list(self.sources)
        return [(pattern, stored[index]) for pattern, stored in self._by_pattern.items()]

    @cached_property
    def _by_pattern(self) -> dict[str, list[SourceTensor]]:
        """The stored tensors of each pattern, in their order."""
        found: dict[str, list[SourceTensor]] = {}
        for pattern, stored in self.sources:
            found.setdefault(pattern, []).append(stored)
        return found


def converted(
    transform: Any, target: str, shapes: Shapes, tensors: Sequence[tuple[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """What transformers' conversion makes of tensors, each with its pattern; `target` among it."""
    own = deepcopy(transform)
    for pattern, tensor in tensors:
        own.add_tensor(target, pattern, pattern, cast(Any, tensor))
    made = own.convert(target, model=shapes, config=shapes.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _merges(operation: Any) -> bool:
    return isinstance(operation, MergeModulelist) and operation.dim == 0


def _leaves_first_dimension(operation: Any) -> bool:
    if not isinstance(operation, LATER_DIMENSIONS):
        return False
    named = vars(operation)
    return all(named[key] >= 1 for key in ("dim", "dim0", "dim1") if key in named)
