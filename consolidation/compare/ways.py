"""All ways to store a group of experts that are tried, as plain numbers. Chooses none."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from consolidation.arithmetic.frontier import Point, frontier, steps, total
from consolidation.compare.few_formats import Formats, Option, cheapest, dropping
from consolidation.compare.groups import Choices, Content, SlotChoice, Use
from representation.formats import Format

PRICES = 6
"""At how many prices of a byte few formats are sought, over all that a budget may ask for."""


@dataclass(frozen=True, slots=True)
class Way:
    """One slot for some experts. num_bytes: the slot's.   members: the experts, by position.

    options: for each of them, the residuals that it may have, with their bytes and the error.
    """

    content: Content
    format: Format
    num_bytes: int
    members: tuple[int, ...]
    options: tuple[tuple[Point[tuple[Format, ...]], ...], ...]

    def points(self, formats: Formats | None) -> Iterator[Point[Choices]]:
        """What may be worth its bytes within formats; None: any."""
        if formats is not None and self.format not in formats:
            return
        found = [
            frontier(o for o in own if formats is None or formats.issuperset(o.choice))
            for own in self.options
        ]
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
                    (way.format, price * way.num_bytes, [_options(o, price) for o in way.options])
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
                    best = min(best, of_slot + sum(cheapest(own, formats) for own in members))
            found.append(best)
        return found[-1]


def _options(options: Sequence[Point[tuple[Format, ...]]], price: float) -> list[Option]:
    return sorted(
        ((one.error + price * one.num_bytes, frozenset(one.choice)) for one in options),
        key=lambda option: option[0],
    )


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
