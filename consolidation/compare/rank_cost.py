"""What low-rank residuals cost, alone and with a few bits for what they leave."""

from collections.abc import Iterator, Mapping

import torch

from consolidation.arithmetic.decomposition import decompose
from consolidation.compare.costs import Cost, Difference, Formats, PartWanted, SlotLoss
from consolidation.compare.noise import GROUP, Noise, Spread
from consolidation.compare.packed_cost import rounding_cost
from representation.formats import ExpertShape, Format, LowRank, Packed

RANKS = (2, 4, 8, 16, 32, 64)
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
            found = decompose(matrix, wanted.metric(name), fmt.rank)
            factors[name] = found.left, found.right
        return fmt.encode(factors, wanted.weights.vectors, wanted.dtype)


class RankOffers:
    """See `Offers`. Decomposes the difference once; one that is zero has nothing to offer.

    tails: by rank, the cost of what the rank leaves.   left: by rank, the spread of that.
    """

    def __init__(self, difference: Difference) -> None:
        self._tails: dict[int, float] = {}
        self._left: dict[int, Spread] = {}
        if difference.is_zero:
            return
        unit, matrices = difference.unit, difference.weights.matrices
        smallest = min(min(matrix.shape) for matrix in matrices.values())
        ranks = [rank for rank in RANKS if rank < smallest]
        found = {n: decompose(m, unit.metrics[n], max(RANKS)) for n, m in matrices.items()}
        self._tails = {rank: sum(one.tails[rank] for one in found.values()) for rank in ranks}
        for rank in sorted({*BOTH_RANKS} & {*ranks}):
            left = {name: matrix - found[name].product(rank) for name, matrix in matrices.items()}
            self._left[rank] = unit.spread(left)

    def residuals(self, loss: SlotLoss) -> Iterator[tuple[Formats, float]]:
        """See `Offers.residuals`."""
        for rank, tail in self._tails.items():
            yield (LowRank(rank),), tail + loss.cost
        for rank, left in self._left.items():
            for bits in BOTH_BITS:
                both = (LowRank(rank), Packed(bits, GROUP))
                yield both, rounding_cost(left, bits, loss)


COST: Cost = RankCost()
