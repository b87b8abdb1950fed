"""How another model's prediction differs from an original's, position by position. Runs no model.

The figures are those by which users of llama.cpp compare files (its perplexity tool with
`--kl-divergence`): KLD and its percentiles, "Same top p", "RMS Δp".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn import functional

PART = 64
"""Positions compared at once, which bounds memory for large vocabularies."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Values of each scored position, 17 bytes for each: logits are not kept for them.

    divergence: (n,) float64, KL(original || other) in nats   moved: (n,) float64, how much more
    probable the other finds the token that stands there   same: (n,) bool, whether both put the
    largest logit on one token.
    """

    divergence: torch.Tensor
    moved: torch.Tensor
    same: torch.Tensor

    @classmethod
    def between(
        cls, original: torch.Tensor, other: torch.Tensor, tokens: Sequence[int]
    ) -> "Positions":
        """Of two models' logits, (n, V) each. tokens: those that stand at the n positions"""
        found = []
        targets = torch.tensor(tokens, device=original.device).split(PART)
        for one, two, standing in zip(
            original.split(PART), other.split(PART), targets, strict=True
        ):
            log_p = functional.log_softmax(one.double(), -1)
            log_q = functional.log_softmax(two.double(), -1)
            at = standing[:, None]
            moved = log_q.gather(1, at).exp() - log_p.gather(1, at).exp()  # (n, 1)
            found.append(
                cls(_divergences(log_p, log_q), moved[:, 0], one.argmax(-1) == two.argmax(-1))
            )
        return cls.joined(found)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> "Positions":
        """Those of several windows, in their order."""
        return Positions(
            torch.cat([one.divergence for one in parts]),
            torch.cat([one.moved for one in parts]),
            torch.cat([one.same for one in parts]),
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


def divergences(original: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(original || other) of each position. Logits, (n, V) each -> (n,) float64"""
    pairs = zip(original.split(PART), other.split(PART), strict=True)
    logs = ([functional.log_softmax(one.double(), -1) for one in pair] for pair in pairs)
    return torch.cat([_divergences(log_p, log_q) for log_p, log_q in logs])


def _divergences(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    # A token that the original rules out adds nothing, even if the other rules it out too.
    return torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(-1)


def _percentile(values: torch.Tensor, share: float) -> float:
    """Between two values that stand next to each other by rank, in proportion."""
    ordered = values.sort().values
    at = share * (len(ordered) - 1)
    below = int(at)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return float(low + (at - below) * (high - low))
