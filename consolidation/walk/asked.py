"""What tokens ask of a layer's experts, and who asks whom. Computes no expert."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True, slots=True)
class Pairs:
    """The tokens that chose an expert, in their order.

    tokens: (n,) of the N   places: (n,) as their how-manieth of K
    """

    expert: int
    tokens: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """hidden: (N, H) what experts are given   index, weights: (N, K), the router's choice"""

    hidden: torch.Tensor
    index: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> "Asked":
        """Of several inputs, one after another."""
        return Asked(
            torch.cat([one.hidden for one in parts]),
            torch.cat([one.index for one in parts]),
            torch.cat([one.weights for one in parts]),
        )

    def taken(self) -> torch.Tensor:
        """Which choices an expert computes: none that is weighed with 0, such as those beyond an
        expert's capacity. -> (N, K) bool
        """
        return self.weights != 0

    def pairs(self) -> Iterator[Pairs]:
        """Of each expert that is chosen, by its number."""
        num_choices = self.index.shape[1]
        (there,) = torch.where(self.taken().flatten())  # (n,) of the N K
        chosen = self.index.flatten()[there]
        found, counts = chosen.unique(return_counts=True)
        order = there[chosen.argsort(stable=True)]
        for expert, pairs in zip(found.tolist(), order.split(counts.tolist()), strict=True):
            yield Pairs(expert, pairs // num_choices, pairs % num_choices)

    def weights_of(self, pairs: Pairs) -> torch.Tensor:
        """What the router weighs an expert's outputs with. -> (n, 1)"""
        return self.weights[pairs.tokens, pairs.places, None]

    def summed(self, outputs: Iterable[tuple[Pairs, torch.Tensor]]) -> torch.Tensor:
        """What all experts give, of the outputs (n, H) of each; added in their order. -> (N, H)"""
        out = torch.zeros_like(self.hidden)
        for pairs, output in outputs:
            out.index_add_(0, pairs.tokens, (output * self.weights_of(pairs)).to(out.dtype))
        return out
