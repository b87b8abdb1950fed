"""Which few formats to leave to a layer. Decides no budget: it is given a price of a byte."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence

from representation.formats import Format

Formats = frozenset[Format]
Option = tuple[float, Formats]
"""What a choice costs, error and priced bytes, and the formats that it needs."""


def dropping(
    formats: Collection[Format], needed: Collection[Format], cost: Callable[[Formats], float]
) -> Iterator[Formats]:
    """These formats, then without one after another, each the one that is missed least.

    needed: those that stay.   cost: of all choices within formats; infinite if there is none.
    Ends before the cost would be infinite.
    """
    left = frozenset(formats) | frozenset(needed)
    while True:
        yield left
        tried = [left - {fmt} for fmt in sorted(left - frozenset(needed))]
        costs = [cost(one) for one in tried]
        if min(costs, default=math.inf) == math.inf:
            return
        left = tried[costs.index(min(costs))]


def cheapest(options: Sequence[Option], formats: Formats) -> float:
    """The least cost within formats; infinite if there is none. options: by rising cost"""
    return next((cost for cost, needed in options if needed <= formats), math.inf)
