"""What an expert may be served as, what each way takes, and what it is expected to cost.

Every kind of format is asked (`costs.py`); which ways are taken is decided elsewhere.
"""

from collections.abc import Iterator

import torch

from consolidation.arithmetic.frontier import Point
from consolidation.compare.costs import Difference, Formats, SlotLoss, cost_of
from consolidation.compare.noise import Noise, Powers
from consolidation.compare.part_form import PartForm, PartForms, joined
from consolidation.compare.ways import Options
from representation.formats import DENSE, FORMATS, ExpertShape, Format, LowRank

COSTS = tuple(cost_of(kind) for kind in FORMATS)
LOSSLESS = tuple(cost for cost in COSTS if any(fmt.replaces for fmt in cost.residuals))
"""Costs of kinds whose residuals give an expert back to the bit."""
SLOT_FORMATS: Formats = tuple(fmt for cost in COSTS for fmt in cost.slots)
NUM_MATRICES = 2
"""Matrices of an expert: what goes in, and what comes out."""


def max_maps(num_adapters: int) -> int:
    """Maps that shelves of one layer may have.

    Two for residuals that replace weights, and for slots and other residuals of a format one for
    those of all matrices and one for those of each. Each adapter may have ranks of its own.
    """
    residuals = [fmt for cost in COSTS for fmt in cost.residuals]
    replacing = [fmt for fmt in residuals if fmt.replaces]
    others = len(SLOT_FORMATS) + len(residuals) - len(replacing) + num_adapters
    return 2 * len(replacing) + (1 + NUM_MATRICES) * others


class Pair:
    """One unit seen from one content of a slot, and what may be offered for the difference."""

    def __init__(self, difference: Difference, content: Powers) -> None:
        """content: the powers of the difference's content; none where nothing may be lost."""
        self._unit = difference.unit
        self._same = difference.is_same
        self._costs = difference.costs
        ranks = {name: found.rank for name, found in difference.factors.items()}
        names = difference.content.matrices
        adapted = {name: (LowRank(ranks[name]),) if name in ranks else () for name in names}
        self._by_adapter = joined(adapted) if ranks else None
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
            if self._unit.locked:
                return Options((Point(0, 0.0, ()),), {})
            return Options((), {name: (Point(0, 0.0, ()),) for name in self._costs})
        whole: list[Point[PartForms]] = []
        for offers in self._offers:
            for fmt, error in offers.whole(slot):
                whole.append(Point(sizes.residual(PartForm(fmt)), error, (PartForm(fmt),)))
        by_adapter = self._by_adapter if slot == DENSE else None
        if self._unit.locked:
            if by_adapter is not None:
                whole.append(Point(sum(map(sizes.residual, by_adapter)), 0.0, by_adapter))
            return Options(tuple(whole), {}, by_adapter)
        lost = cost_of(slot.kind).of_slot(slot, self._content_spread, noise)
        apart = {
            name: tuple(self._of_matrix(SlotLoss(name, lost[name], noise), sizes))
            for name in self._costs
        }
        return Options(tuple(whole), apart, by_adapter)

    def _of_matrix(self, loss: SlotLoss, sizes: "FileSizes") -> Iterator[Point[Formats]]:
        """What residuals of one matrix take and leave."""
        yield Point(0, self._costs[loss.matrix] + loss.cost, ())
        for offers in self._offers:
            for formats, error in offers.residuals(loss):
                yield Point(sizes.beside(loss.matrix, formats), error, formats)


class FileSizes:
    """Bytes of files of one layer's parts, and of their tensors on a device."""

    def __init__(self, shape: ExpertShape, dtype: torch.dtype) -> None:
        self.shape = shape
        self._dtype = dtype
        self._known: dict[tuple[bool, PartForm], int] = {}
        self._beside: dict[tuple[str, Formats], int] = {}

    def on_device(self, form: PartForm, *, residual: bool) -> int:
        """Bytes of the tensors of a slot's part, or of a residual, as a device holds them."""
        own = self.shape.only(form.matrices)
        return form.format.num_bytes(own, self._dtype, residual=residual)

    def slot(self, forms: PartForms) -> int:
        """Bytes of the files of a slot's parts."""
        return sum(self._file(form, residual=False) for form in forms)

    def residual(self, form: PartForm) -> int:
        """Bytes of a residual's file."""
        return self._file(form, residual=True)

    def beside(self, matrix: str, formats: Formats) -> int:
        """Bytes of the files of one matrix's residuals."""
        key = matrix, formats
        if key not in self._beside:
            alone = [PartForm(fmt, (matrix,)) for fmt in formats]
            self._beside[key] = sum(map(self.residual, alone))
        return self._beside[key]

    def _file(self, form: PartForm, *, residual: bool) -> int:
        key = residual, form
        if key not in self._known:
            own = self.shape.only(form.matrices)
            self._known[key] = form.format.file_bytes(own, self._dtype, residual=residual)
        return self._known[key]
