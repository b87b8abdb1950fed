"""What an adapter adds to one parameter: products of two factors, read when they are needed.

Computed in float32 and rounded once, to the parameter's dtype.
Source: Hu et al., 2021 (LoRA), section 4.1.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from consolidation.arithmetic.factors import Factors
from consolidation.checkpoints.conversion import Shapes, converted
from consolidation.checkpoints.tensor_file import StoredTensor


@dataclass(frozen=True, slots=True)
class Pair:
    """Two factors as a file has them: `left` is (O, r) and `right` (r, I), for one matrix.

    For stacked experts they are (O, r E), the experts' columns in turn, and (E r, I).
    """

    left: StoredTensor
    right: StoredTensor
    scale: float

    @property
    def rank(self) -> int:
        """As the file has it."""
        return self.right.shape[0]

    def read(self) -> Factors:
        """The factors of one matrix, with the scale in the left one."""
        return Factors(self.left.read().float() * self.scale, self.right.read().float())

    def read_expert(self, index: int, num_experts: int) -> Factors:
        """The factors of one of so many stacked matrices."""
        rank = self.rank // num_experts
        rows = replace(self.right, shape=(num_experts, rank, self.right.shape[1]))
        left = self.left.read()[:, index::num_experts]
        return Factors(left.float() * self.scale, rows.read(index)[0].float())


class LowRankUpdate(ABC):
    """What is added to a parameter that is a matrix, or one matrix for each expert."""

    @property
    @abstractmethod
    def is_transposed(self) -> bool:
        """Whether the parameter has its input features first."""

    def changes(self, index: int) -> bool:
        """Whether anything is added to an expert's matrix. Reads nothing."""
        return True

    @abstractmethod
    def factors(self, index: int | None) -> Factors | None:
        """Those of an expert's matrix, or of all there is where `index` is None; None: nothing.

        They give what is added as (O, I).
        """

    def onto(self, tensor: torch.Tensor, index: int | None = None) -> torch.Tensor:
        """A parameter, or one expert's part of it, with what is added. Of the same dtype."""
        if tensor.dim() == 3:
            return torch.stack([self.onto(part, number) for number, part in enumerate(tensor)])
        found = self.factors(index)
        if found is None:
            return tensor
        product = found.product()
        merged = tensor.float() + (product.T if self.is_transposed else product)
        return merged.to(tensor.dtype)


@dataclass(frozen=True, slots=True)
class MatrixUpdate(LowRankUpdate):
    """Of a linear layer, a router or an embedding."""

    pair: Pair
    is_transposed: bool = False

    def factors(self, index: int | None) -> Factors | None:
        """See `LowRankUpdate.factors`."""
        return self.pair.read()


@dataclass(frozen=True, slots=True)
class StackedUpdate(LowRankUpdate):
    """Of all experts of a layer, whose factors lie in one pair of tensors."""

    pair: Pair
    num_experts: int
    is_transposed: bool

    def factors(self, index: int | None) -> Factors | None:
        """See `LowRankUpdate.factors`."""
        assert index is not None, "experts are read one by one"
        return self.pair.read_expert(index, self.num_experts)


Listed = Sequence[tuple[str, Pair]]
"""Pairs of one expert, each with the pattern of the converter that its matrix is read by."""


@dataclass(frozen=True, slots=True)
class ListedUpdate(LowRankUpdate):
    """Of experts whose matrices were adapted one by one, and are parts of the parameter `target`.

    The converter that makes the parameter of those matrices makes its left factor too: of their
    left factors, each in columns of its own.
    """

    target: str
    experts: Mapping[int, Listed]
    transform: Any
    shapes: Shapes
    is_transposed: bool

    def changes(self, index: int) -> bool:
        """See `LowRankUpdate.changes`."""
        return index in self.experts

    def factors(self, index: int | None) -> Factors | None:
        """See `LowRankUpdate.factors`."""
        assert index is not None, "experts are read one by one"
        if not self.changes(index):
            return None
        found = [(pattern, pair.read()) for pattern, pair in self.experts[index]]
        right = torch.cat([factors.right for _, factors in found])
        return Factors(self._left([(p, factors.left) for p, factors in found]), right)

    def shape(self, index: int) -> tuple[int, int]:
        """(O, I) of what is added to an expert. Reads nothing."""
        pairs = self.experts[index]
        left = self._left([(pattern, pair.left.meta()) for pattern, pair in pairs])
        return left.shape[0], pairs[0][1].right.shape[1]

    def _left(self, lefts: Sequence[tuple[str, torch.Tensor]]) -> torch.Tensor:
        """(o, r) of each matrix, by pattern -> (O, sum of ranks)"""
        own = dict(lefts)
        rows, rank = lefts[0][1].shape[0], sum(left.shape[1] for left in own.values())
        placed = []
        start = 0
        for pattern in self.transform.source_patterns:
            left = own.get(pattern)
            if left is None:  # A matrix that is not adapted is as high as the others.
                placed.append((pattern, lefts[0][1].new_zeros(rows, rank)))
                continue
            end = start + left.shape[1]
            padded = torch.nn.functional.pad(left, (start, rank - end))
            placed.append((pattern, padded))
            start = end
        made = converted(self.transform, self.target, self.shapes, placed)[self.target][0]
        return made.T if self.is_transposed else made
