"""The cost of sparse residuals: only bytes, wherever a dense slot is close."""

from collections.abc import Iterator, Mapping

import torch

from consolidation.compare.costs import Cost, Difference, Formats, NoOffers, PartWanted
from consolidation.compare.noise import Noise, Spread
from representation.formats import DENSE, ExpertShape, Format, Sparse
from representation.formats.sparse import SHARES, Changes


class SparseCost:
    """See `Cost`. It is never a slot."""

    slots: Formats = ()
    residuals: Formats = tuple(Sparse(share) for share in SHARES)

    def of_slot(self, fmt: Format, spread: Spread, noise: Noise) -> Mapping[str, float]:
        """See `Cost.of_slot`: there is no such slot."""
        raise AssertionError(f"a slot cannot be {fmt}")

    def products(self, fmt: Format, shape: ExpertShape) -> float:
        """See `Cost.products`. The slot's are all: what is changed is written over a copy."""
        return 0.0

    def offers(self, difference: Difference) -> "SparseOffers":
        """See `Cost.offers`."""
        return SparseOffers(difference)

    def fit(self, fmt: Format, wanted: PartWanted) -> dict[str, torch.Tensor]:
        """See `Cost.fit`."""
        assert isinstance(fmt, Sparse)
        assert wanted.stored is not None, "what is replaced is read as it is stored"
        expert, slot = wanted.stored
        return fmt.encode(expert, slot, wanted.shape)


class SparseOffers(NoOffers):
    """See `Offers`. At most one residual, and only on a slot that gives its content to the bit.

    None where that content is the expert itself.
    """

    def __init__(self, difference: Difference) -> None:
        self._smallest: Sparse | None = None
        if difference.is_stored and not difference.is_same:
            own, content = difference.unit.weights.matrices, difference.content.matrices
            self._smallest = Sparse.smallest(
                [Changes.between(matrix, content[name]) for name, matrix in own.items()]
            )

    def whole(self, slot: Format) -> Iterator[tuple[Format, float]]:
        """See `Offers.whole`."""
        if self._smallest is not None and slot == DENSE:
            yield self._smallest, 0.0


COST: Cost = SparseCost()
