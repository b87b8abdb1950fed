"""What a format's file gives the engine: the runs of one matrix of a shelf, as a plain value.

Each file `<kind>_linear.py` next to this one is a `FormatFile`. Its runs say what a product reads
and for which rows, and have a plain product in torch. Launches nothing.
"""

import functools
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
