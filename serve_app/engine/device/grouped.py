"""Which rows go with which matrix. `matmul.py` multiplies them."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch

Run = tuple[int, int, int]
"""A matrix, the first row that goes with it, and the row after the last."""


@dataclass(frozen=True)
class Groups:
    """Rows, sorted by the matrix that each goes with. Exactly one of the two is set.

    runs: for the matrices that have rows, in order; known to the host.
    ends: (G,) int32, where the rows of each of G matrices end; known only to the device. There may
    be rows after the last end.
    """

    runs: tuple[Run, ...] | None = None
    ends: torch.Tensor | None = None

    @classmethod
    def counted(cls, counts: Iterable[int]) -> "Groups":
        """counts: the number of rows of each matrix"""
        runs: list[Run] = []
        start = 0
        for matrix, count in enumerate(counts):
            if count:
                runs.append((matrix, start, start + count))
                start += count
        return cls(tuple(runs))

    @cached_property
    def longest(self) -> int:
        """The most rows of a run."""
        return max((end - start for _, start, end in self.runs or ()), default=0)

    @cached_property
    def bounds(self) -> "array[int]":
        """The runs one after the other, as compiled code reads them."""
        return array("q", chain.from_iterable(self.runs or ()))
