"""The tensors of all backbones on the device, in counted stacks. Computes nothing with them.

A stack has rows of one tensor, or of those of sibling layers side by side.
`scheduling.ledgers.backbone_rows` decides which row a place has: equal tensors of several backbones
are one row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from representation.architecture.anatomy import Anatomy
from serve_app.engine.device.pages import with_rows, zeros
from serve_app.engine.stacks.arrivals import Arrival
from serve_app.engine.stacks.stack_rows import RowTable, StackRows
from serve_app.engine.stacks.stack_shapes import (
    StackShape,
    stack_shapes,
    tied_names,
    unique_tensors,
)


@dataclass(slots=True, eq=False)
class Stack:
    """tensor: (R, *shape), R rows.   rows: which of them each place has."""

    tensor: torch.Tensor
    rows: StackRows


class Stacks:
    """Tensors of all backbones, by their names in a checkpoint.

    Tied tensors are one under several names. A stack has the name of its first tensor.
    awaited: the arrivals at places of the running step.
    """

    def __init__(
        self,
        stacks: Mapping[str, Stack],
        shapes: Mapping[str, StackShape] | None = None,
        aliases: Mapping[str, str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """shapes: of stacks of several tensors.   names: of all tensors, in the order of loading"""
        self._stacks = dict(stacks)
        self._aliases = aliases or {}
        self._names = list(stacks) if names is None else list(names)
        self._part_of: dict[str, tuple[str, int, int]] = {}
        for stack, shape in (shapes or {}).items():
            start = 0
            for name, size in shape.members.items():
                if len(shape.members) > 1:
                    self._part_of[name] = stack, start, size
                start += size
        self._holding = {
            name: self._stacks[self.stack_of(name)] for name in (*self._names, *self._aliases)
        }
        self._written: dict[str, list[str | None]] = {
            name: [None] * len(stack.tensor) for name, stack in self._stacks.items()
        }
        self._arrange()
        self.awaited: tuple[Arrival, ...] = ()

    @classmethod
    def each_its_own(cls, tensors: Mapping[str, torch.Tensor]) -> "Stacks":
        """Stacks in which each place has its own row. tensors: (S, *shape) each"""
        return cls({n: Stack(t, StackRows(len(t), len(t))) for n, t in tensors.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        """(R, *shape), the rows of a tensor."""
        name = self.canonical(name)
        if name not in self._part_of:
            return self._stacks[name].tensor
        stack, start, size = self._part_of[name]
        return self._stacks[stack].tensor.narrow(1, start, size)

    def ready(self, name: str) -> Stack:
        """The stack of a tensor, once what the running step reads of it has arrived."""
        for arrival in self.awaited:
            arrival.wait(self.canonical(name))
        return self._holding[name]

    def canonical(self, name: str) -> str:
        """The one name of a tied tensor."""
        return self._aliases.get(name, name)

    def stack_of(self, name: str) -> str:
        """The name of the stack that holds a tensor."""
        name = self.canonical(name)
        return self._part_of[name][0] if name in self._part_of else name

    def names(self) -> Sequence[str]:
        """Names of the tensors, each once, in the order of the forward."""
        return self._names

    def stacks(self) -> Mapping[str, Stack]:
        """The stacks by name."""
        return self._stacks

    @property
    def num_rows(self) -> dict[str, int]:
        """The number of rows of each stack."""
        return {name: len(stack.tensor) for name, stack in self._stacks.items()}

    @property
    def num_bytes(self) -> int:
        return sum(stack.tensor.nbytes for stack in self._stacks.values())

    def point(self, place: int, rows: Mapping[str, int]) -> bool:
        """Let a place read these rows, one of each stack. No running step may use the place.

        -> whether steps find rows in another way from now on, so that captured ones do not hold
        """
        changes = [self._stacks[name].rows.point(place, row) for name, row in rows.items()]
        if any(changes):
            self._arrange()
        else:
            self._table.point(place)
        return any(changes)

    def grow(self, sources: Mapping[str, Sequence[int | None]]) -> None:
        """Add rows. sources: for each stack that grows, the row of which each is a copy.

        Nothing may be copying into them meanwhile. A place that had a row still has its content.
        """
        for name, of in sources.items():
            stack, written = self._stacks[name], self._written[name]
            stack.tensor = _grown(stack.tensor, of)
            self._written[name] = [None if source is None else written[source] for source in of]
            stack.rows.grow(len(of))
        self._arrange()

    def holds(self, stack: str, row: int, content: str) -> bool:
        """Whether a row holds all of a content. Only the writing thread asks."""
        return self._written[stack][row] == content

    def note(self, stack: str, row: int, content: str | None) -> None:
        """Note what a row holds from now on; None: an incomplete content."""
        self._written[stack][row] = content

    def _arrange(self) -> None:
        maps = [stack.rows for stack in self._stacks.values()]
        device = next(iter(self._stacks.values())).tensor.device
        self._table = RowTable(maps, device)


def _grown(before: torch.Tensor, of: Sequence[int | None]) -> torch.Tensor:
    """A stack's tensor with rows that are copies of these. Copies nothing that can stay."""
    stays = all(source is None or source == row for row, source in enumerate(of))
    longer = with_rows(before, len(of)) if stays else None
    if longer is None:
        shape = (len(of), *before.shape[1:])
        longer = zeros(shape, dtype=before.dtype, device=before.device, grows=True)
        for row, source in enumerate(of):
            if source is not None:
                longer[row].copy_(before[source])
    return longer


def allocate_stacks(
    anatomy: Anatomy,
    num_places: int,
    device: torch.device,
    num_rows: Mapping[str, int] | None = None,
) -> Stacks:
    """Zeroed stacks for every backbone tensor, tied ones only once.

    num_rows: of each stack; None: one for each place.
    """
    shapes = stack_shapes(anatomy)
    stacks = {}
    for name, shape in shapes.items():
        count = num_places if num_rows is None else num_rows[name]
        tensor = zeros((count, *shape.shape), dtype=shape.dtype, device=device, grows=True)
        stacks[name] = Stack(tensor, StackRows(count, num_places))
    return Stacks(stacks, shapes, tied_names(anatomy), list(unique_tensors(anatomy)))
