"""A matrix of low rank that is known by its factors. Finds none: `decomposition.py` does."""

from dataclasses import dataclass

import torch

from consolidation.arithmetic.on_device import to_device


@dataclass(frozen=True, slots=True)
class Factors:
    """left: (O, r)   right: (r, I), both float32."""

    left: torch.Tensor
    right: torch.Tensor

    @property
    def rank(self) -> int:
        """How many factors there are; the matrix may have a lower rank."""
        return self.left.shape[1]

    def on(self, device: torch.device) -> "Factors":
        """The same on a device."""
        return Factors(to_device(self.left, device), to_device(self.right, device))

    def product(self) -> torch.Tensor:
        """The matrix. -> (O, I)"""
        return self.left @ self.right
