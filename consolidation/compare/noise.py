"""Experts while they are compared, and what rounding one to a few bits costs. Plans nothing.

No expert is rounded to learn what it would cost: the error is predicted from the spread of what is
rounded, by factors that are measured on one expert of a layer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.rounding import round_matrix
from consolidation.arithmetic.weights import Weights
from representation.formats import Packed

GROUP = 128
"""Input features that share a scale. Half as many lessen errors by a tenth for twice the scales."""
SLOT_BITS = (8, 6, 4, 3, 2)
RESIDUAL_BITS = (1, 2, 3, 4, 8)
SPLIT_BITS = frozenset({8})
"""What is stored as `split`: two planes of 4 bits, which are multiplied as such anyway."""

Spread = Mapping[str, float]
"""By matrix, mean squares of groups of weights, weighed by what errors in them cost."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Experts of one content: their weights, and the metrics of all that use it, together.

    metrics: by matrix, for vectors by the matrix they are added to.   spreads: (I,) by matrix,
    those of the metrics.   count: experts.   locked: it must be served exactly as it is.
    """

    weights: Weights
    metrics: Mapping[str, Metric]
    spreads: Mapping[str, torch.Tensor]
    count: int
    locked: bool

    def cost(self, error: Weights) -> float:
        """Cost of an error in all parameters."""
        return sum(self.cost_of(name, error) for name in self.metrics)

    def cost_of(self, name: str, error: Weights) -> float:
        """Cost of an error in one matrix and in the vector that is added to its product."""
        metric, vector = self.metrics[name], error.vectors.get(f"{name}_bias")
        added = 0.0 if vector is None else metric.vector_cost(vector)
        return metric.cost(error.matrices[name]) + added

    def spread(self, matrices: Mapping[str, torch.Tensor]) -> Spread:
        """The spread of matrices, (O, I) by name, as this unit's metrics weigh it."""
        return {
            name: _spread(matrix, self.metrics[name].gain, self.spreads[name])
            for name, matrix in matrices.items()
        }


def unit_of(
    weights: Weights, metrics: Mapping[str, Metric], *, count: int = 1, locked: bool = False
) -> Unit:
    """A unit, with the spreads of its metrics."""
    spreads = {name: m.spreads().view(-1)[: m.num_columns] for name, m in metrics.items()}
    return Unit(weights, metrics, spreads, count, locked)


def _spread(matrix: torch.Tensor, gain: torch.Tensor, spreads: torch.Tensor) -> float:
    """matrix: (O, I)   gain: (O,)   spreads: (I,)"""
    cost = 0.0
    for start in range(0, matrix.shape[1], GROUP):
        group = matrix[:, start : start + GROUP]
        power = float((group.square().mean(1) * gain).sum())
        cost += power * float(spreads[start : start + GROUP].sum())
    return cost


@dataclass(frozen=True, slots=True)
class Noise:
    """Cost of rounding a matrix to a few bits, over the cost of its spread. By (name, bits)."""

    factors: Mapping[tuple[str, int], float]

    def of_rounding(self, spread: Spread, bits: int) -> dict[str, float]:
        """By matrix, the cost of rounding what has this spread."""
        return {name: self.factors[name, bits] * value for name, value in spread.items()}


def measure_noise(units: Iterable[Unit]) -> Noise:
    """What rounding costs, tried on one expert: it is nearly the same for others of its layer.

    That is the first in which every matrix has weights that count.
    """
    factors = {}
    for unit in units:
        spreads = unit.spread(unit.weights.matrices)
        if all(spreads.values()):
            break
    for name, matrix in unit.weights.matrices.items():
        metric, spread = unit.metrics[name], spreads[name]
        for bits in sorted({*SLOT_BITS, *RESIDUAL_BITS}):
            rounded = round_matrix(matrix, Packed(bits, GROUP), metric)
            cost = metric.noise_cost(rounded.values - matrix)
            factors[name, bits] = cost / spread if spread else 0.0
    return Noise(factors)
