"""What packed parts cost: slots and residuals, rounded to a few bits with feedback."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from consolidation.arithmetic.rounding import round_matrix
from consolidation.compare.costs import Cost, Difference, Formats, Offers, SlotLoss, Wanted
from consolidation.compare.noise import GROUP, RESIDUAL_BITS, SLOT_BITS, Noise, Spread
from representation.formats import Format, Packed


class PackedCost:
    """See `Cost`."""

    slots: Formats = tuple(Packed(bits, GROUP) for bits in SLOT_BITS)
    residuals: Formats = tuple(Packed(bits, GROUP) for bits in RESIDUAL_BITS)

    def of_slot(self, fmt: Format, spread: Spread, noise: Noise) -> Mapping[str, float]:
        """See `Cost.of_slot`."""
        return noise.of_rounding(spread, _packed(fmt).bits)

    def offers(self, difference: Difference) -> Offers:
        """See `Cost.offers`."""
        return PackedOffers(difference.unit.spread(difference.weights.matrices))

    def fit(self, fmt: Format, wanted: Wanted) -> dict[str, torch.Tensor]:
        """See `Cost.fit`."""
        matrices = {}
        for name, matrix in wanted.weights.matrices.items():
            rounded = round_matrix(matrix, _packed(fmt), wanted.metric(name))
            matrices[name] = rounded.codes, rounded.scales
        return _packed(fmt).encode(matrices, wanted.weights.vectors, wanted.shape)


@dataclass(frozen=True, slots=True)
class PackedOffers:
    """See `Offers`. The whole difference, including the slot's own rounding, in a few bits."""

    spread: Spread

    def residuals(self, loss: SlotLoss) -> Iterator[tuple[Formats, float]]:
        """See `Offers.residuals`."""
        for bits in RESIDUAL_BITS:
            yield (Packed(bits, GROUP),), rounding_cost(self.spread, bits, loss)


def rounding_cost(spread: Spread, bits: int, loss: SlotLoss) -> float:
    """Cost of a residual of `bits` bits for this spread, plus the slot's rounding."""
    return sum(loss.noise.of_rounding(loss.added_to(spread), bits).values())


def _packed(fmt: Format) -> Packed:
    assert isinstance(fmt, Packed)
    return fmt


COST: Cost = PackedCost()
