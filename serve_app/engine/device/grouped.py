"""Which rows go with which matrix. Multiplies nothing: `matmul.py` does."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

Run = tuple[int, int, int]
"""Matrix, and the first and past the last of the rows that go with it."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows, sorted by the matrix that each goes with. One of the two is given.

    runs: of the matrices that have rows, in order, known to the host.
    ends: (G,) int32, where the rows of each of G matrices end, known to the device alone; there
    may be rows behind the last.
    """

    runs: tuple[Run, ...] | None = None
    ends: torch.Tensor | None = None

    @classmethod
    def counted(cls, counts: Iterable[int]) -> "Groups":
        """counts: rows of each matrix"""
        runs: list[Run] = []
        start = 0
        for matrix, count in enumerate(counts):
            if count:
                runs.append((matrix, start, start + count))
                start += count
        return cls(tuple(runs))
