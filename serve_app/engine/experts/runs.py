"""What a format's file gives the engine: the runs of one matrix of a shelf, as a plain value.

Each file `<kind>_linear.py` next to this one is a `FormatFile`. Its runs say what a product reads
and for which rows, and have a plain product in torch. Launches nothing.
"""

import functools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Protocol, cast

import torch

from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.laid import Matrix
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.shelves import Pick, Shelf

BLOCK_VALUES = 1 << 19
"""The most values of unstored matrices that are made at a time: 2 MiB in float32."""
WORKSPACE_BYTES = 12 * BLOCK_VALUES
"""The most bytes for making a block: its values, those of a second plane, and indices."""


class Runs(Protocol):
    """Rows of a step, each with one matrix of a shelf: which tensors are read, in which form.

    Tensors are the shelf's slabs, (P, …), never copies.
    """

    @property
    def groups(self) -> Groups:
        """Which rows go with which of the P matrices."""
        ...

    def product(self, multiplier: Multiplier, x: torch.Tensor) -> torch.Tensor:
        """The plain product, which every other form must equal.

        x: (m, I), in the order of the groups  ->  (m, O); rows after the last group are
        undefined
        """
        ...


class FormatFile(Protocol):
    """The file of a format."""

    def runs_of(self, pick: Pick, name: str) -> Runs:
        """The runs of what was picked of a shelf, through its matrix `name`."""
        ...

    def laid_of(self, shelf: Shelf, name: str, slots: Shelf | None) -> Matrix | None:
        """A shelf's matrix `name` as compiled code reads it; None where it cannot."""
        ...


def by_every_part(
    multiplier: Multiplier,
    x: torch.Tensor,
    ends: torch.Tensor,
    num_outputs: int,
    num_lines: int,
    make: Callable[[int, slice], torch.Tensor],
) -> torch.Tensor:
    """A plain product where the host does not know the groups: every row times every part's matrix.

    Right, but slow. `num_lines` of a matrix are made at a time.
    x: (m, I)   ends: (P,), of the rows of each part   make: lines of a part  ->  (L, I)
    ->  (m, O), zero behind the last group
    """
    out = x.new_zeros((x.shape[0], num_outputs))
    rows = torch.arange(x.shape[0], device=x.device)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])  # (P,)
    for part in range(len(ends)):
        is_own = ((rows >= starts[part]) & (rows < ends[part])).unsqueeze(1)  # (m, 1)
        for lines in blocks(num_outputs, num_lines):
            found = multiplier.linear(x, make(part, lines))  # (m, L)
            out[:, lines] = torch.where(is_own, found, out[:, lines])
    return out


def blocks(num_outputs: int, num_lines: int) -> Iterator[slice]:
    """A matrix's lines, so many at a time."""
    for first in range(0, num_outputs, num_lines):
        yield slice(first, min(first + num_lines, num_outputs))


def laid_of(shelf: Shelf, name: str, slots: Shelf | None) -> Matrix | None:
    """A shelf's matrix `name` as compiled code reads it; None where it cannot."""
    return file_of(shelf.key.format.kind).laid_of(shelf, name, slots)


def runs_of(pick: Pick, name: str) -> Runs:
    """The runs of what was picked of a shelf, as its format's own file says."""
    return file_of(pick.shelf.key.format.kind).runs_of(pick, name)


@functools.cache
def file_of(kind: str) -> FormatFile:
    """The file of a kind of format."""
    return cast(FormatFile, import_module(f"serve_app.engine.experts.{kind}_linear"))
