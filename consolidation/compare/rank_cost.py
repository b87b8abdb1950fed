"""What low-rank residuals cost, alone and with a few bits for what they leave."""

from collections.abc import Iterator, Mapping

import torch

from consolidation.arithmetic.decomposition import decompose
from consolidation.compare.costs import (
    Cost,
    Difference,
    Formats,
    NoOffers,
    PartWanted,
    SlotLoss,
)
from consolidation.compare.noise import GROUP, MAX_RANK, Noise, Spread
from representation.formats import ExpertShape, Format, LowRank, Packed

RANKS = (1, 2, 4, 8, 16, 32, MAX_RANK)
BOTH_RANKS = (4, 8, 16)
BOTH_BITS = (1, 2, 3, 4)


class RankCost:
    """See `Cost`. A low rank is never a slot."""

    slots: Formats = ()
    residuals: Formats = tuple(LowRank(rank) for rank in RANKS)

    def of_slot(self, fmt: Format, spread: Spread, noise: Noise) -> Mapping[str, float]:
        """See `Cost.of_slot`: there is no such slot."""
        raise AssertionError(f"a slot cannot be {fmt}")

    def products(self, fmt: Format, shape: ExpertShape) -> float:
        """See `Cost.products`. Measured: those of factors take eight times as long as of codes."""
        operations = sum(fmt.operations(*shape.matrix(name)) for name in shape.matrices)
        return 8.0 * operations / 2

    def offers(self, difference: Difference) -> "RankOffers":
        """See `Cost.offers`."""
        return RankOffers(difference)

    def fit(self, fmt: Format, wanted: PartWanted) -> dict[str, torch.Tensor]:
        """See `Cost.fit`."""
        assert isinstance(fmt, LowRank)
        factors = {}
        for name, matrix in wanted.weights.matrices.items():
            factors[name] = decompose(matrix, wanted.metric(name), fmt.rank)
        return fmt.encode(factors, wanted.weights.vectors, wanted.dtype)


class RankOffers(NoOffers):
    """See `Offers`. Matrices that do not differ have nothing to offer.

    Where factors are known, all of them leave nothing.

    tails: by matrix and rank, the cost of what the rank leaves.   left: the spread of that.
    """

    def __init__(self, difference: Difference) -> None:
        self._tails: dict[str, dict[int, float]] = {}
        self._left: dict[str, dict[int, float]] = {}
        for name, sketch in difference.sketches.items():
            smallest = min(difference.content.matrices[name].shape)
            known = difference.factors.get(name)
            most = smallest if known is None else min(smallest, known.rank)
            ranks = [rank for rank in RANKS if rank < most]
            self._tails[name] = {rank: sketch.tails[rank] for rank in ranks}
            if known is not None and known.rank < smallest:
                self._tails[name][known.rank] = 0.0
            self._left[name] = {
                rank: max(0.0, difference.spread[name] - sketch.taken[rank])
                for rank in BOTH_RANKS
                if rank in ranks
            }

    def residuals(self, loss: SlotLoss) -> Iterator[tuple[Formats, float]]:
        """See `Offers.residuals`."""
        for rank, tail in self._tails.get(loss.matrix, {}).items():
            yield (LowRank(rank),), tail + loss.cost
        for rank, left in self._left.get(loss.matrix, {}).items():
            for bits in BOTH_BITS:
                yield (LowRank(rank), Packed(bits, GROUP)), loss.of_rounding(left, bits)


COST: Cost = RankCost()
