"""What comparing a layer finds: groups of experts and the choices for each. Plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from consolidation.arithmetic.frontier import Point
from consolidation.compare.part_form import AS_IT_IS, PartForm, PartForms
from representation.formats import Format

EXPERTS, BASE, KEPT = "experts", "base", "kept"


@dataclass(frozen=True, slots=True)
class Content:
    """What a slot holds.

    experts: distinct experts of the layer, by position: one, or several's mean.   base: the base
    checkpoint's expert of an index.   kept: a slot of the release that is extended.
    """

    kind: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """A distinct expert that uses a slot, its residuals, and the error that is expected then.

    by_adapter: whether the residuals are the factors that its adapter adds to what the slot holds.
    """

    expert: int
    residuals: PartForms
    error: float
    by_adapter: bool = False


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """One slot: what it holds, how, and for whom. forms: of its parts, one for each matrix."""

    content: Content
    forms: PartForms
    uses: tuple[Use, ...]

    @property
    def formats(self) -> Iterator[Format]:
        """Of the slot and of its users' residuals; some may come again."""
        yield from (one.format for one in self.forms)
        for use in self.uses:
            yield from (one.format for one in use.residuals)

    @property
    def shelves(self) -> Iterator[tuple[bool, PartForm]]:
        """What tells the shelves of the slot and of its users' residuals; some may come again.

        Whether it is one of residuals, and the form of its parts.
        """
        yield from ((False, one) for one in self.forms)
        for use in self.uses:
            yield from ((True, one) for one in use.residuals)

    @classmethod
    def exactly(cls, position: int, kept: int | None) -> "SlotChoice":
        """An expert as it is, in a slot of its own or in the kept slot that holds the same."""
        content = Content(EXPERTS, (position,)) if kept is None else Content(KEPT, (kept,))
        return cls(content, AS_IT_IS, (Use(position, (), 0.0),))


Choices = tuple[SlotChoice, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Experts of one origin, by position in the layer, and the frontier of their choices.

    `via` names, for an expert whose neurons lie in another order than the first member's, the
    expert whose match with that one tells the order. `shares` are, by member, what a model loses
    by an error over the error.
    """

    members: tuple[int, ...]
    via: Mapping[int, int]
    shares: tuple[Mapping[str, float], ...]
    points: tuple[Point[Choices], ...]

    def numbered(self, positions: Sequence[int]) -> "Group":
        """The same group where expert `i` is called `positions[i]`."""
        at = positions.__getitem__

        def slot(choice: SlotChoice) -> SlotChoice:
            content = choice.content
            if content.kind == EXPERTS:
                content = Content(EXPERTS, tuple(map(at, content.positions)))
            uses = tuple(replace(use, expert=at(use.expert)) for use in choice.uses)
            return SlotChoice(content, choice.forms, uses)

        return Group(
            tuple(map(at, self.members)),
            {at(member): at(via) for member, via in self.via.items()},
            self.shares,
            tuple(Point(p.num_bytes, p.error, tuple(map(slot, p.choice))) for p in self.points),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "members": list(self.members),
            "via": [[member, via] for member, via in self.via.items()],
            "shares": [dict(share) for share in self.shares],
            "points": [
                [point.num_bytes, point.error, [_slot_to_json(slot) for slot in point.choice]]
                for point in self.points
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Group":
        """The inverse of `to_json`."""
        return cls(
            tuple(value["members"]),
            dict(value["via"]),
            tuple(value["shares"]),
            tuple(
                Point(num_bytes, error, tuple(_slot_from_json(slot) for slot in slots))
                for num_bytes, error, slots in value["points"]
            ),
        )


def _slot_to_json(slot: SlotChoice) -> list[Any]:
    uses = [
        [use.expert, [str(one) for one in use.residuals], use.error, use.by_adapter]
        for use in slot.uses
    ]
    return [slot.content.kind, list(slot.content.positions), list(map(str, slot.forms)), uses]


def _slot_from_json(value: list[Any]) -> SlotChoice:
    kind, positions, forms, uses = value
    return SlotChoice(
        Content(kind, tuple(positions)),
        tuple(map(PartForm.of, forms)),
        tuple(
            Use(expert, tuple(map(PartForm.of, labels)), error, by_adapter)
            for expert, labels, error, by_adapter in uses
        ),
    )
