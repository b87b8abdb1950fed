"""What split parts cost: as packed ones. None is offered yet: releases that hold some are read."""

from consolidation.compare.costs import Cost, Difference, Formats, NoOffers
from consolidation.compare.packed_cost import PackedCost


class SplitCost(PackedCost):
    """See `Cost`."""

    slots: Formats = ()
    residuals: Formats = ()

    def offers(self, difference: Difference) -> NoOffers:
        """See `Cost.offers`."""
        return NoOffers()


COST: Cost = SplitCost()
