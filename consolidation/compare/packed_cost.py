"""What packed parts cost: slots and residuals, rounded to a few bits with feedback."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from consolidation.arithmetic.rounding import round_matrix
from consolidation.compare.costs import (
    Cost,
    Difference,
    Formats,
    NoOffers,
    Offers,
    PartWanted,
    SlotLoss,
)
from consolidation.compare.noise import GROUP, RESIDUAL_BITS, SLOT_BITS, SPLIT_BITS, Noise, Spread
from representation.formats import ExpertShape, Format, Packed


class PackedCost:
    """See `Cost`."""

    def __init__(
        self, kind: type[Packed], slot_bits: Sequence[int], residual_bits: Sequence[int]
    ) -> None:
        """Formats of one kind, in so many bits."""
        self.slots = tuple(kind(bits, GROUP) for bits in slot_bits)
        self.residuals = tuple(kind(bits, GROUP) for bits in residual_bits)

    def of_slot(self, fmt: Format, spread: Spread, noise: Noise) -> Mapping[str, float]:
        """See `Cost.of_slot`."""
        return noise.of_rounding(spread, _packed(fmt).bits)

    def products(self, fmt: Format, shape: ExpertShape) -> float:
        """See `Cost.products`. Each plane takes its own, however wide it is."""
        return float(len(_packed(fmt).widths) * shape.num_weights)

    def offers(self, difference: Difference) -> Offers:
        """See `Cost.offers`."""
        return PackedOffers(difference.spread, self.residuals)

    def fit(self, fmt: Format, wanted: PartWanted) -> dict[str, torch.Tensor]:
        """See `Cost.fit`."""
        matrices = {}
        for name, matrix in wanted.weights.matrices.items():
            rounded = round_matrix(matrix, _packed(fmt), wanted.metric(name))
            matrices[name] = rounded.codes, rounded.scales
        return _packed(fmt).encode(matrices, wanted.weights.vectors, wanted.shape)


class PackedOffers(NoOffers):
    """See `Offers`. The whole difference, including the slot's own rounding, in a few bits."""

    def __init__(self, spread: Spread, formats: Sequence[Packed]) -> None:
        self._spread = spread
        self._formats = formats

    def residuals(self, loss: SlotLoss) -> Iterator[tuple[Formats, float]]:
        """See `Offers.residuals`."""
        for fmt in self._formats:
            yield (fmt,), loss.of_rounding(self._spread[loss.matrix], fmt.bits)


def _packed(fmt: Format) -> Packed:
    assert isinstance(fmt, Packed)
    return fmt


COST: Cost = PackedCost(
    Packed,
    [bits for bits in SLOT_BITS if bits not in SPLIT_BITS],
    [bits for bits in RESIDUAL_BITS if bits not in SPLIT_BITS],
)
