"""A matrix of low rank that is known by its factors. Finds none: `decomposition.py` does."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Factors:
    """left: (O, r)   right: (r, I), both float32."""

    left: torch.Tensor
    right: torch.Tensor

    @property
    def rank(self) -> int:
        """How many factors there are; the matrix may have a lower rank."""
        return self.left.shape[1]

    def product(self) -> torch.Tensor:
        """The matrix. -> (O, I)"""
        return self.left @ self.right
