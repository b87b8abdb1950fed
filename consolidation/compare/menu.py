"""What an expert may be served as, what each way takes, and what it is expected to cost.

Every kind of format is asked (`costs.py`); which ways are taken is decided elsewhere.
"""

import torch

from consolidation.arithmetic.frontier import Point, frontier
from consolidation.arithmetic.weights import Weights
from consolidation.compare.costs import Difference, Formats, SlotLoss, cost_of
from consolidation.compare.noise import Noise, Unit
from representation.formats import DENSE, FORMATS, ExpertShape, Format

COSTS = tuple(cost_of(kind) for kind in FORMATS)
SLOT_FORMATS: Formats = tuple(fmt for cost in COSTS for fmt in cost.slots)
MAX_FORMATS = len(SLOT_FORMATS) + sum(len(cost.residuals) for cost in COSTS)
"""Formats that the parts of one layer may have, slots and residuals counted apart."""


class Pair:
    """One unit seen from one content of a slot: the difference, and what is known about it."""

    def __init__(self, unit: Unit, content: Weights) -> None:
        weights = unit.weights.minus(content)
        self._unit = unit
        self._difference = Difference(unit, weights, weights.is_zero())
        self._cost = 0.0 if self._difference.is_zero else unit.cost(weights)
        self._content_spread = unit.spread(content.matrices)
        self._offers = [cost.offers(self._difference) for cost in COSTS if not unit.locked]

    def options(self, slot: Format, noise: Noise, sizes: "FileSizes") -> tuple[Point[Formats], ...]:
        """The frontier of residuals for this unit, where the slot is held in this format."""
        if self._difference.is_zero and slot == DENSE:
            return (Point(0, 0.0, ()),)
        if self._unit.locked:
            return ()
        loss = SlotLoss(cost_of(slot.kind).of_slot(slot, self._content_spread, noise), noise)
        points: list[Point[Formats]] = [Point(0, self._cost + loss.cost, ())]
        for offers in self._offers:
            for formats, error in offers.residuals(loss):
                points.append(Point(sum(map(sizes.residual, formats)), error, formats))
        return frontier(points)


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
            self._known[key] = fmt.file_bytes(self._shape, self._dtype, residual=residual)
        return self._known[key]
