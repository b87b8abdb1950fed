"""All ways to store a group of experts that are tried, as plain numbers. Chooses none.

Each matrix chooses its residuals by itself: errors and bytes of matrices add up, so there are as
many options as matrices have together, and not as many as there are combinations of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from consolidation.arithmetic.frontier import Point, frontier, steps, total
from consolidation.compare.costs import Formats as Chosen
from consolidation.compare.few_formats import Formats, Option, cheapest, dropping
from consolidation.compare.groups import Choices, Content, SlotChoice, Use
from consolidation.compare.residual import Residual, Residuals, joined
from representation.formats import Format

PRICES = 6
"""At how many prices of a byte few formats are sought, over all that a budget may ask for."""


Apart = Mapping[str, Sequence[Point[Chosen]]]
"""By matrix, formats of its residuals, with the bytes that they take alone, and its error."""


@dataclass(frozen=True, slots=True)
class Options:
    """whole: residuals for all matrices together.   apart: what each matrix may have instead.

    Both empty: nothing gives the expert from this slot.   num_bytes: of a residual's file.
    """

    whole: tuple[Point[Residuals], ...]
    apart: Apart
    num_bytes: Callable[[Residual], int]
    _known: dict[Formats | None, tuple[Point[Residuals], ...]] = field(default_factory=dict)

    def frontier(self, formats: Formats | None) -> tuple[Point[Residuals], ...]:
        """What may be worth its bytes within formats; None: any. Empty if there is nothing."""
        if formats not in self._known:
            self._known[formats] = self._frontier(formats)
        return self._known[formats]

    def _frontier(self, formats: Formats | None) -> tuple[Point[Residuals], ...]:
        points = [
            point
            for point in self.whole
            if formats is None or formats.issuperset(one.format for one in point.choice)
        ]
        own = [
            frontier(p for p in found if formats is None or formats.issuperset(p.choice))
            for found in self.apart.values()
        ]
        if own and all(own):
            points += [self._together(point) for point in total(own)]
        return frontier(points)

    def _together(self, point: Point[tuple[Chosen, ...]]) -> Point[Residuals]:
        """What matrices have in the same format is one residual, which takes fewer bytes."""
        residuals = joined(dict(zip(self.apart, point.choice, strict=True)))
        return Point(sum(map(self.num_bytes, residuals)), point.error, residuals)

    def priced(self, price: float) -> "PricedOptions":
        """The options at a price of a byte."""
        whole = (
            (p.error + price * p.num_bytes, frozenset(one.format for one in p.choice))
            for p in self.whole
        )
        apart = (
            ((p.error + price * p.num_bytes, frozenset(p.choice)) for p in found)
            for found in self.apart.values()
        )
        return PricedOptions(_by_cost(whole), tuple(map(_by_cost, apart)))


@dataclass(frozen=True, slots=True)
class PricedOptions:
    """Options at one price of a byte, by rising cost."""

    whole: Sequence[Option]
    apart: tuple[Sequence[Option], ...]

    def cost(self, formats: Formats) -> float:
        """The least within formats; infinite if there is nothing."""
        apart = sum(cheapest(own, formats) for own in self.apart) if self.apart else math.inf
        return min(cheapest(self.whole, formats), apart)


def _by_cost(options: Iterable[Option]) -> list[Option]:
    return sorted(options, key=lambda option: option[0])


@dataclass(frozen=True, slots=True)
class Way:
    """One slot for some experts. num_bytes: the slot's.   members: the experts, by position.

    options: for each of them, the residuals that it may have.
    """

    content: Content
    format: Format
    num_bytes: int
    members: tuple[int, ...]
    options: tuple[Options, ...]

    def points(self, formats: Formats | None) -> Iterator[Point[Choices]]:
        """What may be worth its bytes within formats; None: any."""
        if formats is not None and self.format not in formats:
            return
        found = [own.frontier(formats) for own in self.options]
        if not all(found):
            return  # One of them is locked, and nothing gives it back from this.
        for point in total(found):
            uses = []
            for member, residual, own in zip(self.members, point.choice, found, strict=True):
                (error,) = [p.error for p in own if p.choice == residual]
                uses.append(Use(member, residual, error))
            choice = SlotChoice(self.content, self.format, tuple(uses))
            yield Point(self.num_bytes + point.num_bytes, point.error, (choice,))


@dataclass(frozen=True, slots=True)
class Node:
    """Experts that may share a slot, and the two nodes that they are otherwise parted into."""

    ways: tuple[Way, ...]
    halves: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class GroupWays:
    """The ways of a group: a tree, every node after its halves."""

    nodes: tuple[Node, ...]

    def frontier(self, formats: Formats | None = None) -> tuple[Point[Choices], ...]:
        """What may be worth its bytes within formats; None: any. Empty if there is nothing."""
        found: list[tuple[Point[Choices], ...]] = []
        for node in self.nodes:
            points = [point for way in node.ways for point in way.points(formats)]
            if node.halves is not None and all(found[half] for half in node.halves):
                apart = total([found[half] for half in node.halves])
                points += [Point(p.num_bytes, p.error, (*p.choice[0], *p.choice[1])) for p in apart]
            found.append(frontier(points))
        return found[-1]


class _Priced:
    """The ways of a group at one price of a byte."""

    def __init__(self, group: GroupWays, price: float) -> None:
        self._nodes = [
            (
                [
                    (way.format, price * way.num_bytes, [o.priced(price) for o in way.options])
                    for way in node.ways
                ],
                node.halves,
            )
            for node in group.nodes
        ]

    def cost(self, formats: Formats) -> float:
        """The least within formats; infinite if there is nothing."""
        found: list[float] = []
        for ways, halves in self._nodes:
            best = math.inf if halves is None else sum(found[half] for half in halves)
            for fmt, of_slot, members in ways:
                if fmt in formats:
                    best = min(best, of_slot + sum(own.cost(formats) for own in members))
            found.append(best)
        return found[-1]


def few_formats(groups: Sequence[GroupWays], limit: int) -> list[Formats]:
    """Sets of at most so many formats for a layer, each good at some price of a byte."""
    frontiers = [group.frontier() for group in groups]
    gains = [gain for gain, _ in steps(frontiers)]
    found = dict[Formats, None]()
    for number in range(PRICES if gains else 0):
        price = gains[(2 * number + 1) * len(gains) // (2 * PRICES)]
        formats = _few_at(price, groups, frontiers, limit)
        if formats is not None:
            found[formats] = None
    return list(found)


def _few_at(
    price: float,
    groups: Sequence[GroupWays],
    frontiers: Sequence[Sequence[Point[Choices]]],
    limit: int,
) -> Formats | None:
    """Those that are missed least at a price of a byte; None if so few are not enough."""
    best = [min(f, key=lambda point: point.error + price * point.num_bytes) for f in frontiers]
    used = {fmt for point in best for slot in point.choice for fmt in slot.formats}
    priced = [_Priced(group, price) for group in groups]
    sets = dropping(used, (), lambda formats: sum(one.cost(formats) for one in priced))
    return next((formats for formats in sets if len(formats) <= limit), None)
