"""What an expert may be served as, what each way takes, and what it is expected to cost.

Nothing is quantised for it: the error of rounding is foretold from the spread of what is rounded
(`Noise`), that of a low rank from singular values. Which ways are taken is decided elsewhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from consolidation.arithmetic.frontier import Point, frontier
from consolidation.arithmetic.low_rank import decompose
from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.rounding import round_matrix
from consolidation.arithmetic.weights import Weights
from representation.formats import DENSE, ExpertShape, Format, file_bytes, low_rank, packed

GROUP = 128
"""Input features that share a scale. Half as many lessen errors by a tenth for twice the scales."""
SLOT_FORMATS = (DENSE, *(packed(bits, GROUP) for bits in (8, 6, 4, 3, 2)))
RESIDUAL_BITS = (1, 2, 3, 4, 8)
RANKS = (2, 4, 8, 16, 32, 64)
BOTH_RANKS = (4, 8, 16)
BOTH_BITS = (1, 2, 3, 4)
MAX_FORMATS = len(SLOT_FORMATS) + len(RESIDUAL_BITS) + len(RANKS)
"""Formats that the parts of one layer may have, slots and residuals counted apart."""
FEEDBACK = 1.7
"""How much more rounding with feedback moves weights than the error it leaves would say."""

Formats = tuple[Format, ...]
"""Formats of an expert's residuals; none when the slot is all it has."""


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
        of_matrices = sum(m.cost(error.matrices[name]) for name, m in self.metrics.items())
        vectors = error.vectors.items()
        return of_matrices + sum(
            self.metrics[name.removesuffix("_bias")].vector_cost(error) for name, error in vectors
        )


@dataclass(frozen=True, slots=True)
class Noise:
    """Cost of rounding a matrix to so many bits, over the cost of its spread. By (name, bits)."""

    factors: Mapping[tuple[str, int], float]

    def of_rounding(self, spread: Mapping[str, float], fmt: Format) -> float:
        """Cost of rounding what has this spread; nothing for what is kept as it is."""
        if fmt.kind == "dense":
            return 0.0
        return sum(self.factors[name, fmt.bits] * value for name, value in spread.items())


def unit_of(
    weights: Weights, metrics: Mapping[str, Metric], *, count: int = 1, locked: bool = False
) -> Unit:
    """A unit, with the spreads of its metrics."""
    spreads = {name: m.spreads().view(-1)[: m.num_columns] for name, m in metrics.items()}
    return Unit(weights, metrics, spreads, count, locked)


def measure_noise(units: Iterable[Unit]) -> Noise:
    """What rounding costs, tried on one expert: it is nearly the same for others of its layer.

    That is the first in which every matrix has weights that count.
    """
    bits = {fmt.bits for fmt in SLOT_FORMATS if fmt.kind == "packed"} | set(RESIDUAL_BITS)
    factors = {}
    for unit in units:
        spreads = _spread(unit.weights.matrices, unit)
        if all(spreads.values()):
            break
    for name, matrix in unit.weights.matrices.items():
        metric, spread = unit.metrics[name], spreads[name]
        for count in sorted(bits):
            rounded = round_matrix(matrix, packed(count, GROUP), metric)
            cost = metric.noise_cost(rounded.values - matrix)
            factors[name, count] = cost / spread if spread else 0.0
    return Noise(factors)


class Pair:
    """One unit seen from one content of a slot: the difference, and what is known about it."""

    def __init__(self, unit: Unit, content: Weights) -> None:
        difference = unit.weights.minus(content)
        self.unit = unit
        self.equal = difference.is_zero()
        self._cost = 0.0 if self.equal else unit.cost(difference)
        self._spread = _spread(difference.matrices, unit)
        self._content_spread = _spread(content.matrices, unit)
        smallest = min(min(matrix.shape) for matrix in difference.matrices.values())
        self._ranks = [rank for rank in RANKS if rank < smallest]
        self._tails: list[tuple[float, ...]] = []
        self._left: dict[int, dict[str, float]] = {}
        if not self.equal:
            found = {
                name: decompose(matrix, unit.metrics[name], max(RANKS))
                for name, matrix in difference.matrices.items()
            }
            self._tails = [one.tails for one in found.values()]
            for rank in sorted({*BOTH_RANKS} & {*self._ranks}):
                self._left[rank] = _spread(
                    {
                        name: matrix - found[name].product(rank)
                        for name, matrix in difference.matrices.items()
                    },
                    unit,
                )

    def options(
        self, slot: Format, noise: Noise, sizes: "FileSizes"
    ) -> tuple[Point[tuple[Format, ...]], ...]:
        """The frontier of residuals for this unit, where the slot is held in this format."""
        slot_cost = noise.of_rounding(self._content_spread, slot)
        if self.equal and slot.kind == "dense":
            return (Point(0, 0.0, ()),)
        if self.unit.locked:
            return ()
        moved = {
            name: FEEDBACK * noise.factors[name, slot.bits] * value if slot.bits else 0.0
            for name, value in self._content_spread.items()
        }
        points: list[Point[Formats]] = [Point(0, self._cost + slot_cost, ())]
        for bits in RESIDUAL_BITS:
            fmt = packed(bits, GROUP)
            cost = noise.of_rounding(_sum(self._spread, moved), fmt)
            points.append(Point(sizes.residual(fmt), cost, (fmt,)))
        if not self.equal:
            points += self._with_ranks(slot_cost, moved, noise, sizes)
        return frontier(points)

    def _with_ranks(
        self, slot_cost: float, moved: Mapping[str, float], noise: Noise, sizes: "FileSizes"
    ) -> list[Point[Formats]]:
        points: list[Point[Formats]] = []
        for rank in self._ranks:
            tails = sum(found[rank] for found in self._tails)
            fmt = low_rank(rank)
            points.append(Point(sizes.residual(fmt), tails + slot_cost, (fmt,)))
        for rank, left in self._left.items():
            for bits in BOTH_BITS:
                both = (low_rank(rank), packed(bits, GROUP))
                cost = noise.of_rounding(_sum(left, moved), both[1])
                points.append(Point(sum(sizes.residual(fmt) for fmt in both), cost, both))
        return points


class FileSizes:
    """Bytes of files of one layer's parts, by format."""

    def __init__(self, shape: ExpertShape, dtype: torch.dtype) -> None:
        self._shape = shape
        self._dtype = dtype
        self._known: dict[tuple[Format, bool], int] = {}

    def slot(self, fmt: Format) -> int:
        """Bytes of a slot's file."""
        return self._size(fmt, residual=False)

    def residual(self, fmt: Format) -> int:
        """Bytes of a residual's file."""
        return self._size(fmt, residual=True)

    def _size(self, fmt: Format, *, residual: bool) -> int:
        key = (fmt, residual)
        if key not in self._known:
            self._known[key] = file_bytes(self._shape, fmt, self._dtype, residual=residual)
        return self._known[key]


def _spread(matrices: Mapping[str, torch.Tensor], unit: Unit) -> dict[str, float]:
    """By matrix, mean squares of groups, weighed by what errors in them cost."""
    return {
        name: _spread_cost(matrix, unit.metrics[name].gain, unit.spreads[name])
        for name, matrix in matrices.items()
    }


def _spread_cost(matrix: torch.Tensor, gain: torch.Tensor, spreads: torch.Tensor) -> float:
    """matrix: (O, I)   gain: (O,)   spreads: (I,)"""
    cost = 0.0
    for start in range(0, matrix.shape[1], GROUP):
        group = matrix[:, start : start + GROUP]
        power = float((group.square().mean(1) * gain).sum())
        cost += power * float(spreads[start : start + GROUP].sum())
    return cost


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: value + other[name] for name, value in one.items()}
