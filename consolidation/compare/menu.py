"""What an expert may be served as, what each way takes, and what it is expected to cost.

Every kind of format is asked (`costs.py`); which ways are taken is decided elsewhere.
"""

import torch

from consolidation.arithmetic.frontier import Point
from consolidation.arithmetic.weights import Weights
from consolidation.compare.costs import Difference, Formats, SlotLoss, cost_of
from consolidation.compare.noise import Noise, Unit
from representation.formats import DENSE, FORMATS, ExpertShape, Format

COSTS = tuple(cost_of(kind) for kind in FORMATS)
LOSSLESS = tuple(cost for cost in COSTS if any(fmt.replaces for fmt in cost.residuals))
"""Costs of kinds whose residuals give an expert back to the bit."""
SLOT_FORMATS: Formats = tuple(fmt for cost in COSTS for fmt in cost.slots)
MAX_MAPS = len(SLOT_FORMATS) + sum(1 + f.replaces for cost in COSTS for f in cost.residuals)
"""Maps that shelves of one layer may have: one a format, two where residuals replace weights."""


class Pair:
    """One unit seen from one content of a slot: the difference, and what is known about it.

    is_stored: as in `Difference`.
    """

    def __init__(self, unit: Unit, content: Weights, *, is_stored: bool) -> None:
        weights = unit.weights.minus(content)
        self._unit = unit
        self._same = unit.weights.equals(content)
        self._difference = Difference(unit, content, weights, weights.is_zero(), is_stored)
        self._offers = [
            cost.offers(self._difference) for cost in (LOSSLESS if unit.locked else COSTS)
        ]
        if not unit.locked:
            self._cost = 0.0 if self._difference.is_zero else unit.cost(weights)
            self._content_spread = unit.spread(content.matrices)

    def options(self, slot: Format, noise: Noise, sizes: "FileSizes") -> tuple[Point[Formats], ...]:
        """Residuals that this unit may have, where the slot is held in this format.

        Empty where the unit is locked, and nothing gives it back to the bit.
        """
        if self._same and slot == DENSE:
            return (Point(0, 0.0, ()),)
        points: list[Point[Formats]] = []
        loss = SlotLoss(slot, {}, noise)
        if not self._unit.locked:
            lost = cost_of(slot.kind).of_slot(slot, self._content_spread, noise)
            loss = SlotLoss(slot, lost, noise)
            points.append(Point(0, self._cost + loss.cost, ()))
        for offers in self._offers:
            for formats, error in offers.residuals(loss):
                points.append(Point(sum(map(sizes.residual, formats)), error, formats))
        return tuple(points)


class FileSizes:
    """Bytes of files of one layer's parts, by format."""

    def __init__(self, shape: ExpertShape, dtype: torch.dtype) -> None:
        self.shape = shape
        self._dtype = dtype
        self._known: dict[tuple[Format, bool], int] = {}

    def on_device(self, fmt: Format, *, residual: bool) -> int:
        """Bytes of a part's tensors, as a device holds them."""
        return fmt.num_bytes(self.shape, self._dtype, residual=residual)

    def slot(self, fmt: Format) -> int:
        """Bytes of a slot's file."""
        return self._size(fmt, residual=False)

    def residual(self, fmt: Format) -> int:
        """Bytes of a residual's file."""
        return self._size(fmt, residual=True)

    def _size(self, fmt: Format, *, residual: bool) -> int:
        key = (fmt, residual)
        if key not in self._known:
            self._known[key] = fmt.file_bytes(self.shape, self._dtype, residual=residual)
        return self._known[key]
