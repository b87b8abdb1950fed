"""One expert's weights for computing: float32, matrices the same way round for every family.

Reads no files, decides nothing. Experts that are stored unchanged never pass through here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from consolidation.arithmetic.on_device import CPU, to_device
from representation.formats import ExpertShape

WIDE_BYTES = 4
"""Bytes of a weight in float32."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of one expert by name, in float32. Matrices are (O, I)."""

    matrices: Mapping[str, torch.Tensor]
    vectors: Mapping[str, torch.Tensor]

    def square_norm(self) -> float:
        """Sum of squares of all weights and biases."""
        return sum(float(tensor.square().sum()) for tensor in self.tensors())

    def minus(self, other: "Weights") -> "Weights":
        """The difference of two experts of one shape."""
        return Weights(
            {name: tensor - other.matrices[name] for name, tensor in self.matrices.items()},
            {name: tensor - other.vectors[name] for name, tensor in self.vectors.items()},
        )

    def only(self, names: Collection[str]) -> "Weights":
        """Some matrices, and the vectors that are added to their products; all where empty."""
        if not names:
            return self
        own = {f"{name}_bias" for name in names}
        return Weights(
            {name: matrix for name, matrix in self.matrices.items() if name in names},
            {name: vector for name, vector in self.vectors.items() if name in own},
        )

    def equals(self, other: "Weights") -> bool:
        """Whether two experts of one shape are the same to the bit: 0 and −0 are not."""
        pairs = zip(self.tensors(), other.tensors(), strict=True)
        return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs)

    def rounded(self, dtype: torch.dtype) -> "Weights":
        """The same, rounded to a dtype and widened again."""
        return Weights(
            {name: tensor.to(dtype).float() for name, tensor in self.matrices.items()},
            {name: tensor.to(dtype).float() for name, tensor in self.vectors.items()},
        )

    def tensors(self) -> list[torch.Tensor]:
        """All parameters, matrices first."""
        return [*self.matrices.values(), *self.vectors.values()]


def weights_of(
    tensors: Mapping[str, torch.Tensor], shape: ExpertShape, device: torch.device = CPU
) -> Weights:
    """Weights on a device from the tensors of an expert as its module has them, in any dtype."""

    def upright(tensor: torch.Tensor) -> torch.Tensor:
        there = to_device(tensor, device)
        return (there.T if shape.transposed else there).float().contiguous()

    return Weights(
        {name: upright(tensors[name]) for name in shape.matrices},
        {name: to_device(tensors[name], device).float() for name in shape.vectors},
    )


def mean_weights(experts: Sequence[Weights], counts: Sequence[int]) -> Weights:
    """The mean of experts, weighted by `counts`."""
    total = sum(counts)

    def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        found = tensors[0] * counts[0]
        for tensor, count in zip(tensors[1:], counts[1:], strict=True):
            found.add_(tensor, alpha=count)
        return found.div_(total)

    first = experts[0]
    return Weights(
        {name: mean([e.matrices[name] for e in experts]) for name in first.matrices},
        {name: mean([e.vectors[name] for e in experts]) for name in first.vectors},
    )
