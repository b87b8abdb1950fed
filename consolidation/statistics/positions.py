"""How another model's prediction differs from an original's, position by position. Runs no model.

The figures are those by which users of llama.cpp compare files (its perplexity tool with
`--kl-divergence`): KLD and its percentiles, "Same top p", "RMS Δp".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from consolidation.statistics.divergence import compared


@dataclass(frozen=True, slots=True)
class Positions:
    """Values of each scored position, 33 bytes for each: logits are not kept for them.

    divergence: (n,) float64, KL(original || other) in nats   moved: (n,) float64, how much more
    probable the other finds the token that stands there   same: (n,) bool, whether both put the
    largest logit on one token   loss, other_loss: (n,) float64, of that token, in nats.
    """

    divergence: torch.Tensor
    moved: torch.Tensor
    same: torch.Tensor
    loss: torch.Tensor
    other_loss: torch.Tensor

    @classmethod
    def between(
        cls, original: torch.Tensor, other: torch.Tensor, tokens: Sequence[int]
    ) -> "Positions":
        """Of two models' logits, (n, V) each. tokens: those that stand at the n positions"""
        found = compared(original, other, torch.tensor(tokens, device=original.device))
        same = original.argmax(-1) == other.argmax(-1)
        moved = (-found.other_loss).exp() - (-found.loss).exp()
        return cls(found.divergence, moved, same, found.loss, found.other_loss)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> "Positions":
        """Those of several windows, in their order."""
        return Positions(
            torch.cat([one.divergence for one in parts]),
            torch.cat([one.moved for one in parts]),
            torch.cat([one.same for one in parts]),
            torch.cat([one.loss for one in parts]),
            torch.cat([one.other_loss for one in parts]),
        )

    def __len__(self) -> int:
        return len(self.divergence)

    def figures(self) -> "Figures":
        """Means and percentiles over the positions."""
        # Rounding can make a divergence of 0 negative; NaN stays NaN.
        kl_99, kl_999 = (_percentile(self.divergence, share) for share in (0.99, 0.999))
        return Figures(
            kl=max(math.fsum(self.divergence.tolist()) / len(self), 0.0),
            kl_99=max(kl_99, 0.0),
            kl_999=max(kl_999, 0.0),
            rms_dp=math.sqrt(math.fsum(self.moved.square().tolist()) / len(self)),
            same_top=int(self.same.sum()) / len(self),
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """Positions in a few numbers. Divergences in nats, the others as shares.

    kl: the mean   kl_99, kl_999: the 99th and the 99.9th percentile   rms_dp: the root of the mean
    square of what the probability of the token that stands in the text has moved   same_top: of
    how many positions both find the same token the most probable.
    """

    kl: float
    kl_99: float
    kl_999: float
    rms_dp: float
    same_top: float


EQUAL = Figures(kl=0.0, kl_99=0.0, kl_999=0.0, rms_dp=0.0, same_top=1.0)
"""Of two models that are the same."""


def _percentile(values: torch.Tensor, share: float) -> float:
    """Between two values that stand next to each other by rank, in proportion."""
    ordered = values.sort().values
    at = share * (len(ordered) - 1)
    below = int(at)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return float(low + (at - below) * (high - low))
