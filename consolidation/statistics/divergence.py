"""KL divergences of logits, in float32 without losing what is small. Runs no model.

A divergence of 1e-7 is a difference of terms a million times as large, so rounding of float32 would
hide it in the usual formula. With d, the difference of two models' logits less its mean under p,
KL(p || q) is log Σ p e^-d, which is log(1 + Σ p (e^-d - 1 + d)): there is nothing to cancel, a
constant in all logits changes nothing, and float32 is quick. Where logits are infinite or differ
by so much that e^-d overflows, float64 and the usual formula are used.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

PART_VALUES = 1 << 20
"""Logits compared at once: a few such tensors stay in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Some positions of two models, float64 each.

    divergence: (n,) KL(original || other) in nats   loss, other_loss: (n,) of the tokens that stand
    there, in nats
    """

    divergence: torch.Tensor
    loss: torch.Tensor
    other_loss: torch.Tensor


def compared(original: torch.Tensor, other: torch.Tensor, tokens: torch.Tensor) -> Compared:
    """Of logits, (n, V) each, and what stands at the n positions."""
    found = [_compared(original[rows], other[rows], tokens[rows]) for rows in parts(original)]
    return Compared(
        torch.cat([one.divergence for one in found]),
        torch.cat([one.loss for one in found]),
        torch.cat([one.other_loss for one in found]),
    )


def divergences(original: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(original || other) of each position. Logits, (n, V) each -> (n,) float64"""
    any_token = torch.zeros(len(original), dtype=torch.long, device=original.device)
    return compared(original, other, any_token).divergence


def losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods of what stands at the positions. (n, V), (n,) -> (n,) float64"""
    at = tokens[:, None]
    found = []
    for rows in parts(logits):
        weights, top = _weights(logits[rows].float())
        found.append(_loss(logits[rows], top, _sum(weights), at[rows]))
    return torch.cat(found)


def parts(logits: torch.Tensor) -> Iterator[slice]:
    """A few positions at a time, of (n, V)."""
    step = max(1, PART_VALUES // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))


def _compared(one: torch.Tensor, two: torch.Tensor, tokens: torch.Tensor) -> Compared:
    one, two, at = one.float(), two.float(), tokens[:, None]
    weights, top = _weights(one)
    total = _sum(weights)  # (n,)
    loss = _loss(one, top, total, at)
    difference = one - two
    mean = _mean(weights, difference, total)
    difference -= mean[:, None].float()
    moved = difference.gather(1, at)[:, 0].double()
    excess = torch.expm1(-difference).add_(difference)
    divergence = _mean(weights, excess, total).clamp_min(0).log1p()
    found = Compared(divergence, loss, loss + moved + divergence)
    if bool(divergence.isfinite().all()):
        return found
    return _exactly(one, two, at)


def _weights(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities but for a factor, and the largest logits. (n, V) -> (n, V), (n, 1)"""
    top = logits.amax(-1, keepdim=True)
    return (logits - top).exp_(), top


def _loss(
    logits: torch.Tensor, top: torch.Tensor, total: torch.Tensor, at: torch.Tensor
) -> torch.Tensor:
    below = (logits.gather(1, at).float() - top)[:, 0].double()
    return total.log() - below


def _sum(weights: torch.Tensor) -> torch.Tensor:
    return weights.sum(-1).double()


def _mean(weights: torch.Tensor, values: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    products: torch.Tensor = torch.linalg.vecdot(weights, values)
    return products.double() / total


def _exactly(one: torch.Tensor, two: torch.Tensor, at: torch.Tensor) -> Compared:
    log_p = functional.log_softmax(one.double(), -1)
    log_q = functional.log_softmax(two.double(), -1)
    # A token that the original rules out adds nothing, even if the other rules it out too.
    terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
    return Compared(terms.sum(-1), -log_p.gather(1, at)[:, 0], -log_q.gather(1, at)[:, 0])
