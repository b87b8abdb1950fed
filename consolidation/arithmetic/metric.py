"""What an error in an expert's matrix costs. Gathers nothing itself.

The divergence that a change E of one matrix causes is, to second order, the mean over tokens of
(gᵀ E x)² / 2, where x is what the matrix is applied to and g the gradient of the log-probability
of a token drawn from the model itself (the Fisher information: Amari, 1998). With the usual
factorisation into a second moment of x and one of g (K-FAC, Martens & Grosse, 2015), the latter
kept on its diagonal and the former in blocks of neighbouring features, it is Σ_o gain_o e_oᵀ M e_o.

That holds for errors of rounding, which are independent of x and g. What is left of a difference
between two models is not: such an error is tried on a sample of the tokens themselves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from consolidation.arithmetic.on_device import CPU
from consolidation.arithmetic.triangular import lower_factors, upper_inverses

BLOCK = 256
"""Input features whose second moments are kept together; memory stays linear in the weights."""
DAMPING = 0.01


@dataclass(frozen=True, slots=True)
class Samples:
    """A sample of the tokens seen. inputs: (n, I)   gradients: (n, O)

    Gradients are weighted so that the sum of (gᵀ E x)² is the share `trust` of the cost; the
    expert saw too few tokens to tell the rest.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor
    trust: float

    def responses(self, error: torch.Tensor) -> torch.Tensor:
        """gᵀ E x for each token. (O, I) -> (n,)"""
        return ((self.gradients @ error) * self.inputs).sum(1)


@dataclass(frozen=True, slots=True)
class Metric:
    """The cost of errors in one matrix (O, I), in nats per token, or in squares of weights.

    gain: (O,) float32   moments: (B, b, b) float32, of input features in blocks; features beyond
    I, which fill the last block, have moment 1 with themselves and 0 with others.
    """

    gain: torch.Tensor
    moments: torch.Tensor
    num_columns: int
    samples: Samples | None = None

    @property
    def mass(self) -> float:
        """Cost of an error of 1 in every weight: what weighs metrics against each other."""
        return float(self.gain.sum() * self._variances().sum())

    @property
    def untrusted(self) -> float:
        """The part of a cost that the samples do not tell."""
        return 1.0 if self.samples is None else 1.0 - self.samples.trust

    def cost(self, error: torch.Tensor) -> float:
        """Cost of an error that may have to do with inputs and gradients. (O, I) -> a number"""
        told = 0.0
        if self.samples is not None:
            told = float(self.samples.responses(error).square().sum())
        return told + self.untrusted * self.noise_cost(error)

    def noise_cost(self, error: torch.Tensor) -> float:
        """Cost of an error that has nothing to do with inputs or gradients. (O, I) -> a number"""
        parts = in_blocks(error, self.num_columns)  # (B, O, b)
        return float((((parts @ self.moments) * parts).sum((0, 2)) * self.gain).sum())

    def vector_cost(self, error: torch.Tensor) -> float:
        """Cost of an error in what is added to the product: a bias. (O,) -> a number"""
        return float((error.square() * self.gain).sum())

    def inverse_roots(self, damping: float) -> torch.Tensor:
        """Upper Cholesky factors of the inverses of the damped moments. -> (B, b, b) float32"""
        return upper_inverses(self._upper_roots(damping)).float()

    def roots(self) -> torch.Tensor:
        """Upper matrices R, where R Rᵀ are the damped moments. -> (B, b, b) float32"""
        return self._upper_roots(DAMPING).float()

    def spreads_of(self, roots: torch.Tensor) -> torch.Tensor:
        """Variance of each input feature given those after it, by this metric's `roots`. -> (I,)

        What rounding with feedback leaves of an error is this much of it.
        """
        return roots.diagonal(dim1=1, dim2=2).square().reshape(-1)[: self.num_columns]

    def permuted(self, rows: torch.Tensor | None, columns: torch.Tensor | None) -> "Metric":
        """The metric of a matrix whose rows and columns are taken in this order.

        Columns that change blocks keep their own moments alone.
        """
        gain = self.gain if rows is None else self.gain[rows]
        moments = self.moments
        if columns is not None and len(moments) == 1:
            order = torch.arange(moments.shape[1], device=columns.device)
            order[: self.num_columns] = columns
            moments = moments[:, order][:, :, order]
        elif columns is not None:
            moments = diagonal_blocks(self._variances()[columns])
        samples = self.samples
        if samples is not None:
            samples = Samples(
                samples.inputs if columns is None else samples.inputs[:, columns],
                samples.gradients if rows is None else samples.gradients[:, rows],
                samples.trust,
            )
        return Metric(gain, moments, self.num_columns, samples)

    def scaled(self, factor: float) -> "Metric":
        """The metric with all costs multiplied."""
        samples = self.samples
        if samples is not None:
            samples = replace(samples, gradients=samples.gradients * math.sqrt(factor))
        return Metric(self.gain * factor, self.moments, self.num_columns, samples)

    def _variances(self) -> torch.Tensor:
        return self.moments.diagonal(dim1=1, dim2=2).reshape(-1)[: self.num_columns]

    def _upper_roots(self, damping: float) -> torch.Tensor:
        """-> (B, b, b) float64: features far larger than most leave float32 too few digits."""
        added = damping * self._variances().mean() + torch.finfo(torch.float32).tiny
        damped = self.moments.double()
        damped.diagonal(dim1=1, dim2=2).add_(added)
        # The lower factor of the features in reverse.
        return lower_factors(damped.flip(1, 2)).flip(1, 2)


def weight_metric(shape: tuple[int, int], device: torch.device = CPU) -> Metric:
    """The metric of weights alone: the sum of squares of an error."""
    gain, variances = (torch.ones(size, device=device) for size in shape)
    return Metric(gain, diagonal_blocks(variances), shape[1])


def together(metrics: Sequence[Metric], weights: Sequence[float]) -> Metric:
    """One metric for a matrix that several models use: the weighted sum, as nearly as one can be.

    Gains add up; second moments are averaged by what they weigh. With one metric it is exact.
    """
    scaled = [metric.scaled(weight) for metric, weight in zip(metrics, weights, strict=True)]
    if len(scaled) == 1:
        return scaled[0]
    shares = [float(metric.gain.sum()) for metric in scaled]
    whole = sum(shares)
    shares = [share / whole if whole else 1 / len(scaled) for share in shares]
    moments = torch.zeros_like(scaled[0].moments)
    for metric, share in zip(scaled, shares, strict=True):
        moments += metric.moments * share
    gain = torch.stack([metric.gain for metric in scaled]).sum(0)
    found = [metric.samples for metric in scaled if metric.samples is not None]
    samples = None
    if len(found) == len(scaled):
        samples = Samples(
            torch.cat([one.inputs for one in found]),
            torch.cat([one.gradients for one in found]),
            sum(one.trust * share for one, share in zip(found, shares, strict=True)),
        )
    return Metric(gain, moments, scaled[0].num_columns, samples)


def block_size(num_columns: int) -> int:
    """Input features in a block."""
    return min(BLOCK, num_columns)


def in_blocks(matrix: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Columns in blocks, the last filled with zeros. (O, I) -> (B, O, b)"""
    size = block_size(num_columns)
    missing = -num_columns % size
    padded = torch.nn.functional.pad(matrix, (0, missing)) if missing else matrix
    blocks: torch.Tensor = padded.unflatten(1, (-1, size))
    return blocks.transpose(0, 1)


def from_blocks(blocks: torch.Tensor, num_columns: int) -> torch.Tensor:
    """The inverse of `in_blocks`. (B, O, b) -> (O, I)"""
    rows: torch.Tensor = blocks.transpose(0, 1).flatten(1)
    return rows[:, :num_columns]


def diagonal_blocks(variances: torch.Tensor) -> torch.Tensor:
    """Blocks of moments of features that have nothing to do with each other. (I,) -> (B, b, b)"""
    size = block_size(len(variances))
    filled = torch.nn.functional.pad(variances, (0, -len(variances) % size), value=1.0)
    return torch.diag_embed(filled.view(-1, size))
