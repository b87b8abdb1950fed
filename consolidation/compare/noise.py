"""Experts while they are compared, and what rounding one to a few bits costs. Plans nothing.

No expert is rounded to learn what it would cost: the error is predicted from the spread of what is
rounded, by factors that are measured on some rows of one expert of a layer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.rounding import round_matrix
from consolidation.arithmetic.sketch import Sketcher, powers
from consolidation.arithmetic.weights import Weights
from consolidation.checkpoints.contents import User
from representation.formats import Packed

GROUP = 128
"""Input features that share a scale. Half as many lessen errors by a tenth for twice the scales."""
SLOT_BITS = (8, 6, 4, 3, 2)
RESIDUAL_BITS = (1, 2, 3, 4, 8)
SPLIT_BITS = frozenset({8})
"""What is stored as `split`: two planes of 4 bits, which are multiplied as such anyway."""
MAX_RANK = 64
"""The most factors that a residual has."""
MEASURED_ROWS = 512
"""Rows of a matrix that rounding is tried on; each is rounded by itself."""

Spread = Mapping[str, float]
"""By matrix, mean squares of groups of weights, weighed by what errors in them cost."""
Powers = Mapping[str, torch.Tensor]
"""By matrix, (O, ceil(I / GROUP)): mean squares of groups of weights."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Experts of one content: their weights, and the metrics of all that use it, together.

    sketchers: by matrix, of those metrics; none where the unit is locked, which means that it must
    be served exactly as it is.   count: experts.
    """

    weights: Weights
    sketchers: Mapping[str, Sketcher]
    count: int
    locked: bool

    def spread(self, found: Powers) -> Spread:
        """The spread of matrices with these powers, as this unit's metrics weigh it."""
        return {name: self.sketchers[name].spread(of_matrix) for name, of_matrix in found.items()}

    def vector_cost(self, name: str, error: Weights) -> float:
        """Cost of an error in the vector that is added to one matrix's product, if it has one."""
        vector = error.vectors.get(f"{name}_bias")
        return 0.0 if vector is None else self.sketchers[name].metric.vector_cost(vector)


def unit_of(
    weights: Weights, metrics: Mapping[str, Metric], *, count: int = 1, locked: bool = False
) -> Unit:
    """A unit, with its metrics prepared."""
    sketchers = {name: Sketcher(metric, MAX_RANK, GROUP) for name, metric in metrics.items()}
    return Unit(weights, sketchers, count, locked)


def powers_of(weights: Weights) -> Powers:
    """The powers of an expert's matrices, or of a difference's."""
    return {name: powers(matrix, GROUP) for name, matrix in weights.matrices.items()}


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
    for unit in units:
        if all(unit.spread(powers_of(unit.weights)).values()):
            break
    factors = {}
    for name, whole in unit.weights.matrices.items():
        step = max(1, len(whole) // MEASURED_ROWS)
        rows = torch.arange(0, len(whole), step, device=whole.device)
        matrix, metric = whole[rows], unit.sketchers[name].metric.permuted(rows, None)
        spread = float((metric.gain @ powers(matrix, GROUP)) @ unit.sketchers[name].spreads)
        for bits in sorted({*SLOT_BITS, *RESIDUAL_BITS}):
            rounded = round_matrix(matrix, Packed(bits, GROUP), metric)
            cost = metric.noise_cost(rounded.values - matrix)
            factors[name, bits] = cost / spread if spread else 0.0
    return Noise(factors)


def loss_shares(users: Sequence[User], metrics: Sequence[Mapping[str, Metric]]) -> dict[str, float]:
    """By model, its loss by an error of their expert over the error counted."""
    masses: dict[str, float] = {}
    counted = 0.0
    for user, own in zip(users, metrics, strict=True):
        mass = sum(metric.mass for metric in own.values()) if own else 1.0
        masses[user.model] = masses.get(user.model, 0.0) + mass
        counted += mass * user.weight
    return {model: mass / counted if counted else 0.0 for model, mass in masses.items()}
