"""What an expert may be served as, what each way takes, and what it is expected to cost.

Every kind of format is asked (`costs.py`); which ways are taken is decided elsewhere.
"""

from collections.abc import Iterator

import torch

from consolidation.arithmetic.frontier import Point
from consolidation.compare.costs import Difference, Formats, SlotLoss, cost_of
from consolidation.compare.noise import Noise, Powers
from consolidation.compare.residual import Residual, Residuals
from consolidation.compare.ways import Options
from representation.formats import DENSE, FORMATS, ExpertShape, Format

COSTS = tuple(cost_of(kind) for kind in FORMATS)
LOSSLESS = tuple(cost for cost in COSTS if any(fmt.replaces for fmt in cost.residuals))
"""Costs of kinds whose residuals give an expert back to the bit."""
SLOT_FORMATS: Formats = tuple(fmt for cost in COSTS for fmt in cost.slots)
NUM_MATRICES = 2
"""Matrices of an expert: what goes in, and what comes out."""
MAX_MAPS = len(SLOT_FORMATS) + sum(
    2 if fmt.replaces else 1 + NUM_MATRICES for cost in COSTS for fmt in cost.residuals
)
"""Maps that shelves of one layer may have: one for slots of a format, two for residuals that
replace weights, and for others one for those of all matrices and one for those of each."""


class Pair:
    """One unit seen from one content of a slot, and what may be offered for the difference."""

    def __init__(self, difference: Difference, content: Powers) -> None:
        """content: the powers of the difference's content; none where nothing may be lost."""
        self._unit = difference.unit
        self._same = difference.is_same
        self._costs = difference.costs
        self._content_spread = {} if self._unit.locked else self._unit.spread(content)
        costs = LOSSLESS if self._unit.locked else COSTS
        self._offers = [cost.offers(difference) for cost in costs]
        self._known: dict[Format, Options] = {}

    def options(self, slot: Format, noise: Noise, sizes: "FileSizes") -> Options:
        """Residuals that this unit may have, where the slot is held in this format.

        None where the unit is locked, and nothing gives it back to the bit.
        """
        if slot not in self._known:
            self._known[slot] = self._options(slot, noise, sizes)
        return self._known[slot]

    def _options(self, slot: Format, noise: Noise, sizes: "FileSizes") -> Options:
        if self._same and slot == DENSE:
            return Options((Point(0, 0.0, ()),), {}, sizes.residual)
        whole: list[Point[Residuals]] = []
        for offers in self._offers:
            for fmt, error in offers.whole(slot):
                whole.append(Point(sizes.residual(Residual(fmt)), error, (Residual(fmt),)))
        if self._unit.locked:
            return Options(tuple(whole), {}, sizes.residual)
        lost = cost_of(slot.kind).of_slot(slot, self._content_spread, noise)
        apart = {
            name: tuple(self._of_matrix(SlotLoss(name, lost[name], noise), sizes))
            for name in self._costs
        }
        return Options(tuple(whole), apart, sizes.residual)

    def _of_matrix(self, loss: SlotLoss, sizes: "FileSizes") -> Iterator[Point[Formats]]:
        """What residuals of one matrix take and leave."""
        yield Point(0, self._costs[loss.matrix] + loss.cost, ())
        for offers in self._offers:
            for formats, error in offers.residuals(loss):
                alone = [Residual(fmt, (loss.matrix,)) for fmt in formats]
                yield Point(sum(map(sizes.residual, alone)), error, formats)


class FileSizes:
    """Bytes of files of one layer's parts, and of their tensors on a device."""

    def __init__(self, shape: ExpertShape, dtype: torch.dtype) -> None:
        self.shape = shape
        self._dtype = dtype
        self._known: dict[Format | Residual, int] = {}

    def on_device(self, part: Format | Residual) -> int:
        """Bytes of the tensors of a slot in a format, or of a residual, as a device holds them."""
        if isinstance(part, Residual):
            own = self.shape.only(part.matrices)
            return part.format.num_bytes(own, self._dtype, residual=True)
        return part.num_bytes(self.shape, self._dtype, residual=False)

    def slot(self, fmt: Format) -> int:
        """Bytes of a slot's file."""
        if fmt not in self._known:
            self._known[fmt] = fmt.file_bytes(self.shape, self._dtype, residual=False)
        return self._known[fmt]

    def residual(self, one: Residual) -> int:
        """Bytes of a residual's file."""
        if one not in self._known:
            own = self.shape.only(one.matrices)
            self._known[one] = one.format.file_bytes(own, self._dtype, residual=True)
        return self._known[one]
