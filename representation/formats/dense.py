"""Dense: the tensors of an expert as its module has them, in the family's dtype. Slots alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from representation.formats.base import Format, Look, Tensors, TensorSpec
from representation.formats.shape import ExpertShape


@dataclass(frozen=True, slots=True)
class Dense(Format):
    """An expert as it is."""

    kind: ClassVar[str] = "dense"
    spelling: ClassVar[str] = "dense"
    shared_slot: ClassVar[Look | None] = Look("shared slot", "blue")
    own_slot: ClassVar[Look | None] = Look("own slot", "vermillion")

    def matrix_specs(
        self, shape: ExpertShape, name: str, dtype: torch.dtype
    ) -> dict[str, TensorSpec]:
        """See `Format.matrix_specs`. The only one that lies as the module has it."""
        return {name: (tuple(shape.parameters[name]), dtype)}

    def encode(
        self,
        matrices: Mapping[str, torch.Tensor],
        vectors: Tensors,
        shape: ExpertShape,
        dtype: torch.dtype,
    ) -> dict[str, torch.Tensor]:
        """The tensors of a part, rounded to `dtype`. matrices: (O, I) by name"""
        found = {}
        for name, matrix in matrices.items():
            found[name] = (matrix.T if shape.transposed else matrix).to(dtype).contiguous()
        return found | {name: vector.to(dtype) for name, vector in vectors.items()}

    def decode(self, tensors: Tensors, name: str, shape: ExpertShape) -> torch.Tensor:
        """See `Format.decode`."""
        found = tensors[name].float()
        return found.T if shape.transposed else found

    def operations(self, num_outputs: int, num_columns: int) -> int:
        """See `Format.operations`."""
        return 2 * num_outputs * num_columns

    def short(self, dtype: torch.dtype) -> str:
        """See `Format.short`."""
        return str(8 * dtype.itemsize)

    def words(self, dtype: torch.dtype) -> str:
        """See `Format.words`."""
        return str(dtype).removeprefix("torch.")
