"""Low rank: a matrix as the product of two factors. Residuals alone; chooses no factor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from representation.formats.base import Format, Look, Tensors, TensorSpec
from representation.formats.shape import ExpertShape


@dataclass(frozen=True, slots=True)
class LowRank(Format):
    """Two factors of this rank: `<p>.left` (O, r) and `<p>.right` (r, I)."""

    rank: int

    kind: ClassVar[str] = "rank"
    spelling: ClassVar[str] = "rank-<rank>"
    residual: ClassVar[Look | None] = Look("low rank", "green")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"format {str(self)!r}: a rank is at least 1")

    def matrix_specs(
        self, shape: ExpertShape, name: str, dtype: torch.dtype
    ) -> dict[str, TensorSpec]:
        """See `Format.matrix_specs`."""
        num_outputs, num_columns = shape.matrix(name)
        return {
            f"{name}.left": ((num_outputs, self.rank), dtype),
            f"{name}.right": ((self.rank, num_columns), dtype),
        }

    def encode(
        self,
        factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        vectors: Tensors,
        dtype: torch.dtype,
    ) -> dict[str, torch.Tensor]:
        """The tensors of a part, factors rounded to `dtype`. factors: (O, r), (r, I) by name"""
        found = dict(vectors)
        for name, (left, right) in factors.items():
            found[f"{name}.left"] = left.to(dtype)
            found[f"{name}.right"] = right.to(dtype)
        return found

    def decode(self, tensors: Tensors, name: str, shape: ExpertShape) -> torch.Tensor:
        """See `Format.decode`."""
        return tensors[f"{name}.left"].float() @ tensors[f"{name}.right"].float()

    def lies_by_columns(self, tensor: str) -> bool:
        """See `Format.lies_by_columns`.

        Left factors do: grouped kernels want strides of 16 bytes, which rows of an odd rank are
        not.
        """
        return tensor.endswith(".left")

    def operations(self, num_outputs: int, num_columns: int) -> int:
        """See `Format.operations`."""
        return 2 * self.rank * (num_outputs + num_columns)

    def short(self, dtype: torch.dtype) -> str:
        """See `Format.short`."""
        return f"r{self.rank}"

    def words(self, dtype: torch.dtype) -> str:
        """See `Format.words`."""
        return f"rank {self.rank}"
