"""Sums over tokens that go through experts, and metrics made of them. Runs no model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from consolidation.arithmetic.float_products import product
from consolidation.arithmetic.metric import Metric, Samples, block_size, in_blocks
from consolidation.walk.experts_forward import Shown

SAMPLES = 256
"""Tokens of each expert that are kept as a sample of all that it saw."""
PRIOR_TOKENS = 64
"""An expert's moments count as if it had seen as many more tokens, of its layer's average."""


class Record:
    """Sums over the tokens of one layer's experts, by matrix. experts: the stock module"""

    def __init__(self, experts: Any, device: torch.device) -> None:
        self.num_experts: int = experts.num_experts
        self._experts = experts
        self._device = device
        self._sums: list[dict[str, Sums]] = [{} for _ in range(self.num_experts)]

    def add(self, expert: int, shown: Sequence[tuple[Shown, torch.Tensor]]) -> None:
        """Add what an expert was given by several inputs, each with its real tokens, (T,).

        Several threads may add at a time, each for another expert.
        """
        found = [one.products(self._experts, real) for one, real in shown]
        for name in found[0]:
            x, gradient = (
                torch.cat(parts) for parts in zip(*(p[name] for p in found), strict=True)
            )
            if name not in self._sums[expert]:
                self._sums[expert][name] = Sums((gradient.shape[1], x.shape[1]), self._device)
            self._sums[expert][name].add(x, gradient)

    def whole(self) -> "dict[str, Sums]":
        """Sums over all experts of the layer, by matrix."""
        found: dict[str, Sums] = {}
        for sums in self._sums:
            for name in sorted(sums):
                found.setdefault(name, Sums(sums[name].shape, self._device)).include(sums[name])
        return found

    def metrics(
        self, expert: int, whole: "Mapping[str, Sums]", num_scored: int
    ) -> dict[str, Metric]:
        """An expert's metrics by matrix; cost is in nats per scored token.

        Once: it uses up the expert's sums, which are as large as what they become. Several threads
        may do so at a time.
        """
        sums, self._sums[expert] = self._sums[expert], {}
        return {
            name: sums.pop(name, Sums(layer.shape, self._device)).metric(layer, num_scored)
            for name, layer in whole.items()
        }


class Sums:
    """Sums over tokens for one matrix: moments of inputs, plain and weighted, and gradients."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.shape = shape
        size = block_size(shape[1])
        num_blocks = -(-shape[1] // size)
        self.plain = torch.zeros(num_blocks, size, size, device=device)
        self.weighed = torch.zeros(num_blocks, size, size, device=device)
        self.gain = torch.zeros(shape[0], device=device)
        self.tokens = 0
        self._squares = 0.0
        self._sample = Sample(shape, device)

    def add(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """x: (n, I)   gradient: (n, O)"""
        square = gradient.square()
        weights = square.sum(1)
        blocks = in_blocks(x, self.shape[1]).transpose(1, 2).contiguous()  # (B, b, n)
        for number, block in enumerate(blocks):
            self.plain[number] += product(block, block)
            self.weighed[number] += product(block * weights, block)
        self.gain += square.sum(0)
        self.tokens += len(x)
        self._squares += float(weights.square().sum())
        self._sample.add(x, gradient)

    def include(self, other: "Sums") -> None:
        self.plain += other.plain
        self.weighed += other.weighed
        self.gain += other.gain
        self.tokens += other.tokens
        self._squares += other._squares

    def metric(self, layer: "Sums", num_scored: int) -> Metric:
        """The metric of one expert, filled up from its layer where the expert saw few tokens.

        Inputs are weighted by their gradients to the degree that tokens with a gradient outnumber
        features, and count alike for the rest. Otherwise rounding would hide its errors in
        directions that were merely never seen. Gains of rows shrink towards their mean likewise.
        """
        plain = _mean(self.plain, self.tokens, layer.plain, layer.tokens, PRIOR_TOKENS)
        mean_gain = layer.gain / max(1, layer.tokens)
        prior = PRIOR_TOKENS * float(mean_gain.sum())
        own, whole = float(self.gain.sum()), float(layer.gain.sum())
        weighed = _mean(self.weighed, own, layer.weighed, whole, prior)
        size = plain.shape[1]
        seen = self._seen() / (self._seen() + size)
        scale = _trace(weighed) / _trace(plain) if _trace(plain) else 1.0
        moments = weighed * seen + plain * (scale * (1 - seen))
        rest = self.shape[1] % size
        if rest:  # Features beyond the last have moment 1 with themselves.
            moments[-1].diagonal()[rest:] = 1.0
        gain = self.gain + mean_gain
        gain = gain * seen + gain.mean() * (1 - seen)
        trust = self.tokens / (self.tokens + PRIOR_TOKENS)
        samples = self._sample.samples(trust, 2 * num_scored)
        return Metric(gain / (2 * num_scored), moments, self.shape[1], samples)

    def _seen(self) -> float:
        """The effective number of tokens with a gradient (Kish, 1965)."""
        return float(self.gain.sum()) ** 2 / self._squares if self._squares else 0.0


class Sample:
    """A sample of the tokens that `add` sees; those that matter most are the likeliest to be in it.

    Priority sampling (Duffield, Lund & Thorup, 2007): sums over the sample are unbiased.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        kept = torch.bfloat16  # as they are stored: they are as large as the moments
        self._inputs = torch.zeros(0, shape[1], device=device, dtype=kept)
        self._gradients = torch.zeros(0, shape[0], device=device, dtype=kept)
        self._weights = torch.zeros(0, device=device)
        self._priorities = torch.zeros(0, device=device)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """x: (n, I)   gradient: (n, O)"""
        weights = x.square().sum(1) * gradient.square().sum(1)
        draws = torch.rand(len(x), generator=self._generator)  # the same on every device
        draws = draws.to(weights.device).clamp_min_(1e-6)
        self._priorities = torch.cat([self._priorities, weights / draws])
        # Keep one more than is used: its priority is the threshold.
        best = self._priorities.topk(min(SAMPLES + 1, len(self._priorities))).indices
        self._priorities = self._priorities[best]
        self._weights = torch.cat([self._weights, weights])[best]
        self._inputs = torch.cat([self._inputs, x.bfloat16()])[best]
        self._gradients = torch.cat([self._gradients, gradient.bfloat16()])[best]

    def samples(self, trust: float, num_tokens: int) -> Samples:
        """The sample, weighted for a mean over `num_tokens`."""
        threshold = self._priorities[SAMPLES] if len(self._priorities) > SAMPLES else 0.0
        used = self._weights[:SAMPLES] > 0
        weights = self._weights[:SAMPLES][used]
        factors = (weights.clamp_min(float(threshold)) / weights * (trust / num_tokens)).sqrt()
        gradients = self._gradients[:SAMPLES][used].float() * factors[:, None]
        return Samples(self._inputs[:SAMPLES][used].float(), gradients, trust)


def _mean(
    own: torch.Tensor, own_weight: float, layer: torch.Tensor, layer_weight: float, prior: float
) -> torch.Tensor:
    if not layer_weight:
        return torch.zeros_like(own)
    return (own + layer * (prior / layer_weight)) / (own_weight + prior)


def _trace(blocks: torch.Tensor) -> float:
    return float(blocks.diagonal(dim1=1, dim2=2).sum())
