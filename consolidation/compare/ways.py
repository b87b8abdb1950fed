"""All ways to store a group of experts that are tried, as plain numbers. Chooses none.

Each matrix chooses the format of its slot, and its residuals, by itself: errors and bytes of
matrices add up, so there are as many options as matrices have together, and not as many as there
are combinations of them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consolidation.arithmetic.frontier import Point, frontier, steps, total
from consolidation.compare.costs import Formats as Chosen
from consolidation.compare.few_formats import Formats, Option, cheapest, dropping
from consolidation.compare.groups import KEPT, Choices, Content, SlotChoice, Use
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms, joined
from representation.formats import DENSE, Format

PRICES = 6
"""At how many prices of a byte few formats are sought, over all that a budget may ask for."""


class Sizes(Protocol):
    """Bytes of files."""

    def slot(self, forms: PartForms) -> int:
        """Of a slot's parts."""
        ...

    def residual(self, form: PartForm) -> int:
        """Of a residual."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What one expert may have beside a slot in one format.

    whole: residuals for all matrices together.   apart: instead, by matrix, formats of its
    residuals, with the bytes that they take alone, and its error. Both empty: nothing gives the
    expert from this slot.   by_adapter: those of either that are what its adapter adds.
    """

    whole: tuple[Point[PartForms], ...]
    apart: Mapping[str, Sequence[Point[Chosen]]]
    by_adapter: PartForms | None = None
    _known: dict[tuple[str, Formats | None], tuple[Point[Chosen], ...]] = field(
        default_factory=dict
    )

    def of_matrix(self, name: str, formats: Formats | None) -> tuple[Point[Chosen], ...]:
        """What may be worth its bytes for a matrix within formats; None: any. May be empty."""
        key = name, formats
        if key not in self._known:
            found = self.apart.get(name, ())
            self._known[key] = frontier(
                p for p in found if formats is None or formats.issuperset(p.choice)
            )
        return self._known[key]

    def of_all(self, formats: Formats | None, sizes: Sizes) -> tuple[Point[PartForms], ...]:
        """The same for all matrices together."""
        points = [
            point
            for point in self.whole
            if formats is None or formats.issuperset(one.format for one in point.choice)
        ]
        own = [self.of_matrix(name, formats) for name in self.apart]
        for point in total(own) if own and all(own) else ():
            residuals = joined(dict(zip(self.apart, point.choice, strict=True)))
            points.append(Point(sum(map(sizes.residual, residuals)), point.error, residuals))
        return frontier(points)

    def priced(self, price: float) -> "PricedOptions":
        """The options at a price of a byte."""
        whole = (
            (p.error + price * p.num_bytes, frozenset(one.format for one in p.choice))
            for p in self.whole
        )
        apart = {
            name: _by_cost((p.error + price * p.num_bytes, frozenset(p.choice)) for p in found)
            for name, found in self.apart.items()
        }
        return PricedOptions(_by_cost(whole), apart)


@dataclass(frozen=True, slots=True)
class PricedOptions:
    """Options at one price of a byte, by rising cost."""

    whole: Sequence[Option]
    apart: Mapping[str, Sequence[Option]]

    def of_matrix(self, name: str, formats: Formats) -> float:
        """The least for a matrix within formats; infinite if there is nothing."""
        return cheapest(self.apart.get(name, ()), formats)

    def of_all(self, formats: Formats) -> float:
        """The same for all matrices together."""
        apart = [self.of_matrix(name, formats) for name in self.apart]
        return min(cheapest(self.whole, formats), sum(apart) if apart else math.inf)


def _by_cost(options: Iterable[Option]) -> list[Option]:
    return sorted(options, key=lambda option: option[0])


Beside = tuple[Point[Chosen], ...]
"""What each expert of a slot has beside one matrix of it."""


@dataclass(frozen=True, slots=True)
class Way:
    """One content of a slot for some experts, by position.

    options: by format that the slot, or one matrix of it, may be in: for each of the experts, what
    it may have beside it.
    """

    content: Content
    members: tuple[int, ...]
    options: Mapping[Format, tuple[Options, ...]]
    sizes: Sizes

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that may be in formats of their own; none where an expert is locked."""
        return tuple(next(iter(self.options.values()))[0].apart)

    def points(self, formats: Formats | None) -> Iterator[Point[Choices]]:
        """What may be worth its bytes within formats; None: any."""
        if self.takes_whole and (formats is None or DENSE in formats):
            yield from self._as_it_is(formats)
        found = [self._of_matrix(name, formats) for name in self.matrices]
        if found and all(found):
            yield from map(self._together, total(found))

    @property
    def takes_whole(self) -> bool:
        """Whether an expert may have a residual for all matrices, which stands on a dense slot."""
        return any(own.whole for own in self.options.get(DENSE, ()))

    def _as_it_is(self, formats: Formats | None) -> Iterator[Point[Choices]]:
        """With a dense slot of all matrices."""
        found = [own.of_all(formats, self.sizes) for own in self.options[DENSE]]
        if not all(found):
            return  # One of them is locked, and nothing gives it back from this.
        for point in total([[Point(p.num_bytes, p.error, p) for p in own] for own in found]):
            uses = [
                Use(member, own.choice, own.error, own.choice == options.by_adapter)
                for member, own, options in zip(
                    self.members, point.choice, self.options[DENSE], strict=True
                )
            ]
            choice = SlotChoice(self.content, AS_IT_IS, tuple(uses))
            yield Point(self.slot_bytes(AS_IT_IS) + point.num_bytes, point.error, (choice,))

    def _of_matrix(
        self, name: str, formats: Formats | None
    ) -> tuple[Point[tuple[Format, Beside]], ...]:
        """What may be worth its bytes for a matrix, in a part of its own."""
        points: list[Point[tuple[Format, Beside]]] = []
        for fmt, options in self.options.items():
            own = [one.of_matrix(name, formats) for one in options]
            if (formats is None or fmt in formats) and all(own):
                size = self.slot_bytes((PartForm(fmt, (name,)),))
                for point in total([[Point(p.num_bytes, p.error, p) for p in of] for of in own]):
                    points.append(Point(size + point.num_bytes, point.error, (fmt, point.choice)))
        return frontier(points)

    def _together(self, point: Point[tuple[tuple[Format, Beside], ...]]) -> Point[Choices]:
        """What matrices have in the same format is one part, which takes fewer bytes."""
        slot = joined({n: (fmt,) for n, (fmt, _) in zip(self.matrices, point.choice, strict=True)})
        num_bytes = self.slot_bytes(slot)
        uses = []
        for number, member in enumerate(self.members):
            own = [beside[number] for _, beside in point.choice]
            chosen = zip(self.matrices, own, strict=True)
            residuals = joined({name: one.choice for name, one in chosen})
            num_bytes += sum(map(self.sizes.residual, residuals))
            error = math.fsum(one.error for one in own)
            by_adapter = slot == AS_IT_IS and residuals == self.options[DENSE][number].by_adapter
            uses.append(Use(member, residuals, error, by_adapter))
        return Point(num_bytes, point.error, (SlotChoice(self.content, slot, tuple(uses)),))

    def slot_bytes(self, forms: PartForms) -> int:
        """Of the slot's files; none where they are kept."""
        return 0 if self.content.kind == KEPT else self.sizes.slot(forms)


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


class _PricedWay:
    """A way at one price of a byte."""

    def __init__(self, way: Way, price: float) -> None:
        self._options = {
            fmt: [own.priced(price) for own in options] for fmt, options in way.options.items()
        }
        self._whole = price * way.slot_bytes(AS_IT_IS) if way.takes_whole else math.inf
        self._parts = {
            name: {fmt: price * way.slot_bytes((PartForm(fmt, (name,)),)) for fmt in way.options}
            for name in way.matrices
        }

    def cost(self, formats: Formats) -> float:
        """The least within formats; infinite if there is nothing."""
        whole = math.inf
        if self._whole < math.inf and DENSE in formats:
            whole = self._whole + sum(own.of_all(formats) for own in self._options[DENSE])
        apart = sum(self._of_matrix(name, formats) for name in self._parts)
        return min(whole, apart) if self._parts else whole

    def _of_matrix(self, name: str, formats: Formats) -> float:
        found = (
            of_slot + sum(own.of_matrix(name, formats) for own in self._options[fmt])
            for fmt, of_slot in self._parts[name].items()
            if fmt in formats
        )
        return min(found, default=math.inf)


class _Priced:
    """The ways of a group at one price of a byte."""

    def __init__(self, group: GroupWays, price: float) -> None:
        self._nodes = [
            ([_PricedWay(way, price) for way in node.ways], node.halves) for node in group.nodes
        ]

    def cost(self, formats: Formats) -> float:
        """The least within formats; infinite if there is nothing."""
        found: list[float] = []
        for ways, halves in self._nodes:
            best = math.inf if halves is None else sum(found[half] for half in halves)
            found.append(min([best, *(way.cost(formats) for way in ways)]))
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
