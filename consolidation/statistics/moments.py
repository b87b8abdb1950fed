"""Sums over tokens that go through experts, and metrics made of them. Runs no model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from consolidation.arithmetic.float_products import filled_up, product
from consolidation.arithmetic.metric import Metric, Samples, block_size, in_blocks
from consolidation.arithmetic.on_device import to_device
from consolidation.walk.scratch import Scratch

SAMPLES = 256
"""Tokens of each expert that are kept as a sample of all that it saw."""
PRIOR_TOKENS = 64
"""An expert's moments count as if it had seen as many more tokens, of its layer's average."""
SUMS = ("plain", "weighed", "gain")
SAMPLED = ("inputs", "gradients", "weights", "priorities")


class Record:
    """Sums over the tokens of one layer's experts, by matrix: set aside until all are there.

    kept: where they lie meanwhile.   `whole` are those over all experts.
    """

    def __init__(self, device: torch.device, kept: Scratch) -> None:
        self.whole: dict[str, Sums] = {}
        self._device = device
        self._kept = kept
        self._counts: dict[tuple[int, str], tuple[int, float]] = {}

    def keep(self, expert: int, sums: "Mapping[str, Sums]") -> None:
        """Set an expert's sums aside. Several threads may do so at a time."""
        for name, one in sums.items():
            for field, tensor in one.tensors().items():
                self._kept.put((expert, name, field), tensor)
            self._counts[expert, name] = one.tokens, one.squares

    def add(self, sums: "Mapping[str, Sums]") -> None:
        """Add an expert's sums to those of the layer."""
        for name, one in sums.items():
            if name not in self.whole:
                self.whole[name] = Sums.zeros(one.shape, self._device)
            self.whole[name].include(one)

    def metrics(self, expert: int, num_scored: int) -> dict[str, Metric]:
        """An expert's metrics by matrix; cost is in nats per scored token.

        Several threads may ask at a time, once all sums were added.
        """
        return {
            name: self._sums(expert, name, layer).metric(layer, num_scored)
            for name, layer in self.whole.items()
        }

    def _sums(self, expert: int, name: str, layer: "Sums") -> "Sums":
        counts = self._counts.get((expert, name))
        if counts is None:
            return Sums.zeros(layer.shape, self._device)
        tensors = {
            field: to_device(self._kept.get((expert, name, field)), self._device)
            for field in layer.tensors()
        }
        return Sums.restored(layer.shape, tensors, *counts)


@dataclass(slots=True)
class Sums:
    """Sums over tokens for one matrix (O, I).

    plain, weighed: (B, b, b) moments of inputs, plain and by their gradients' squares
    gain: (O,) squares of gradients   squares: of the tokens' squares of gradients
    """

    shape: tuple[int, int]
    plain: torch.Tensor
    weighed: torch.Tensor
    gain: torch.Tensor
    tokens: int
    squares: float
    sample: "Sample"

    @classmethod
    def zeros(cls, shape: tuple[int, int], device: torch.device) -> "Sums":
        """Of no tokens."""
        size = block_size(shape[1])
        blocks = torch.zeros(-(-shape[1] // size), size, size, device=device)
        gain, none = torch.zeros(shape[0], device=device), torch.zeros(0, device=device)
        sample = Sample(none.new_zeros(0, shape[1]), none.new_zeros(0, shape[0]), none, none)
        return cls(shape, blocks, blocks.clone(), gain, 0, 0.0, sample)

    @classmethod
    def of(cls, x: torch.Tensor, gradient: torch.Tensor) -> "Sums":
        """x: (n, I)   gradient: (n, O)"""
        square = gradient.square()
        weights = square.sum(1)
        plain, weighed = [], []
        filled, by = filled_up(x), filled_up(weights[:, None])  # (m, I), (m, 1)
        for block in in_blocks(filled, x.shape[1]):  # (m, b)
            across = block.T.contiguous()  # (b, m)
            plain.append(product(across, across))
            weighed.append(product(across * by.T, across))
        return cls(
            (gradient.shape[1], x.shape[1]),
            torch.stack(plain),
            torch.stack(weighed),
            square.sum(0),
            len(x),
            float(weights.square().sum()),
            Sample.of(x, gradient, x.square().sum(1) * weights),
        )

    @classmethod
    def restored(
        cls,
        shape: tuple[int, int],
        tensors: Mapping[str, torch.Tensor],
        tokens: int,
        squares: float,
    ) -> "Sums":
        """From what `tensors` gave."""
        plain, weighed, gain = (tensors[name] for name in SUMS)
        sample = Sample(*(tensors[name] for name in SAMPLED))
        return cls(shape, plain, weighed, gain, tokens, squares, sample)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What can be set aside."""
        sums = {name: getattr(self, name) for name in SUMS}
        return sums | {name: getattr(self.sample, name) for name in SAMPLED}

    def include(self, other: "Sums") -> None:
        """Add another's sums. The sample stays as it is."""
        self.plain += other.plain
        self.weighed += other.weighed
        self.gain += other.gain
        self.tokens += other.tokens
        self.squares += other.squares

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
        samples = self.sample.samples(trust, 2 * num_scored)
        return Metric(gain / (2 * num_scored), moments, self.shape[1], samples)

    def _seen(self) -> float:
        """The effective number of tokens with a gradient (Kish, 1965)."""
        return float(self.gain.sum()) ** 2 / self.squares if self.squares else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of the tokens of a matrix; those that matter most are the likeliest to be in it.

    Priority sampling (Duffield, Lund & Thorup, 2007): sums over the sample are unbiased.
    inputs: (n, I)   gradients: (n, O), in the dtype that they are stored in: they are as large as
    the moments   weights, priorities: (n,), the largest priority first; the last token of
    `SAMPLES` + 1 is not used, but its priority is the threshold.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor
    weights: torch.Tensor
    priorities: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, gradient: torch.Tensor, weights: torch.Tensor) -> "Sample":
        """x: (n, I)   gradient: (n, O)   weights: (n,), how much each token matters"""
        draws = torch.rand(len(x), generator=torch.Generator().manual_seed(0))  # on every device
        priorities = weights / draws.to(weights.device).clamp_min_(1e-6)
        best = priorities.topk(min(SAMPLES + 1, len(x))).indices
        kept = torch.bfloat16
        return cls(x[best].to(kept), gradient[best].to(kept), weights[best], priorities[best])

    def samples(self, trust: float, num_tokens: int) -> Samples:
        """The sample, weighted for a mean over `num_tokens`."""
        threshold = self.priorities[SAMPLES] if len(self.priorities) > SAMPLES else 0.0
        used = self.weights[:SAMPLES] > 0
        weights = self.weights[:SAMPLES][used]
        factors = (weights.clamp_min(float(threshold)) / weights * (trust / num_tokens)).sqrt()
        gradients = self.gradients[:SAMPLES][used].float() * factors[:, None]
        return Samples(self.inputs[:SAMPLES][used].float(), gradients, trust)


def _mean(
    own: torch.Tensor, own_weight: float, layer: torch.Tensor, layer_weight: float, prior: float
) -> torch.Tensor:
    if not layer_weight:
        return torch.zeros_like(own)
    return (own + layer * (prior / layer_weight)) / (own_weight + prior)


def _trace(blocks: torch.Tensor) -> float:
    return float(blocks.diagonal(dim1=1, dim2=2).sum())
