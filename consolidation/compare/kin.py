"""Finds the experts of a layer with one origin: same index first, then any index and neuron order.

Says which of one origin are closest, and decides nothing about bytes. Experts of one origin differ
by fine-tuning alone; others are as far apart as strangers, and no slot could serve both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from consolidation.arithmetic.alignment import fingerprint, match_sketches, reorder, sketch
from consolidation.arithmetic.tree import centred_gram, merge_tree
from consolidation.arithmetic.weights import Weights
from representation.layout import Layout

RELATED = 0.5
"""The squared difference over the squares of both: 1 for strangers, 0 for copies."""
SIMILAR_NORMS = 0.2
"""The most that norms of neurons may differ, over their own norm, for a closer look."""
LOOKS = 2
"""The most origins to look at closely for each stranger."""


@dataclass(frozen=True, slots=True)
class Kin:
    """Experts of one origin, by position; the first is the reference.

    `via` names, for a member whose neurons lie in another order, the expert whose match with the
    reference tells that order.
    """

    members: tuple[int, ...]
    via: Mapping[int, int]

    def numbered(self, number: Callable[[int], int]) -> "Kin":
        """The same where expert `i` is called `number(i)`."""
        via = {number(member): number(other) for member, other in self.via.items()}
        return Kin(tuple(map(number, self.members)), via)

    def to_json(self) -> list[Any]:
        """As JSON values."""
        return [list(self.members), [[member, via] for member, via in self.via.items()]]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> "Kin":
        """The inverse of `to_json`."""
        members, via = value
        return cls(tuple(members), dict(via))


@dataclass(frozen=True, slots=True)
class _Print:
    """What is known of the first expert of a group. norms: (N,)   sketch: (N, directions)"""

    norms: torch.Tensor
    sketch: torch.Tensor

    def distance(self, other: "_Print") -> float:
        """How much the norms of neurons differ, over the other's."""
        return float((self.norms - other.norms).norm() / other.norms.norm())


def find_kin(
    homes: Sequence[int],
    locked: Sequence[bool],
    read: Callable[[int], Weights],
    layout: Layout | None,
) -> list[Kin]:
    """Groups of experts, by position. homes: the index that each expert has in its model.

    locked: whose neurons must stay in the order that they have.
    Reads each expert about once and holds two. Without a layout neurons are taken as they lie.
    """
    groups: list[list[int]] = []
    prints: list[_Print] = []
    for home in sorted(set(homes)):
        here: list[int] = []
        for position in [i for i, other in enumerate(homes) if other == home]:
            weights = read(position)
            for group in here:
                if related(weights, read(groups[group][0])):
                    groups[group].append(position)
                    break
            else:
                here.append(len(groups))
                groups.append([position])
                if layout is not None:
                    prints.append(_Print(fingerprint(weights, layout), sketch(weights, layout)))
    if layout is None:
        return [Kin(tuple(group), {}) for group in groups]
    fixed = [any(locked[position] for position in group) for group in groups]
    return _join(groups, fixed, prints, read, layout)


def related(one: Weights, other: Weights) -> bool:
    """Whether two experts, neuron by neuron as they lie, have one origin."""
    return one.minus(other).square_norm() < RELATED * (one.square_norm() + other.square_norm())


def _join(
    groups: Sequence[Sequence[int]],
    fixed: Sequence[bool],
    prints: Sequence[_Print],
    read: Callable[[int], Weights],
    layout: Layout,
) -> list[Kin]:
    """Groups that become one when their neurons are put in the same order."""
    found: list[tuple[int, list[int], dict[int, int]]] = []  # (which group first, members, via)
    # Others are put in the order of those that are fixed.
    for number in sorted(range(len(groups)), key=lambda number: not fixed[number]):
        group = groups[number]
        distances = [
            (prints[number].distance(prints[first]), place)
            for place, (first, _, _) in enumerate(found)
        ]
        close = [place for distance, place in sorted(distances) if distance < SIMILAR_NORMS]
        for place in close[:LOOKS]:
            first, members, via = found[place]
            order = match_sketches(prints[first].sketch, prints[number].sketch)
            if order is None:
                continue
            as_it_is = torch.equal(order, torch.arange(len(order), device=order.device))
            if fixed[number] and not as_it_is:
                continue
            if related(read(members[0]), reorder(read(group[0]), order, layout)):
                members += group
                if not as_it_is:
                    via |= dict.fromkeys(group, group[0])
                break
        else:
            found.append((number, list(group), {}))
    return [Kin(tuple(members), via) for _, members, via in found]


@dataclass(frozen=True, slots=True)
class Branch:
    """Experts of a group that may share a slot, by position in it; and the two it parts into."""

    members: tuple[int, ...]
    halves: tuple[int, int] | None


def branches(experts: Sequence[Weights], counts: Sequence[int]) -> list[Branch]:
    """A tree over experts, the closest joined first; every branch after its halves."""
    found = [Branch((i,), None) for i in range(len(experts))]
    gram = np.zeros((len(experts), len(experts)))
    for tensors in zip(*(weights.tensors() for weights in experts), strict=True):
        if len(experts) > 2:  # Two can only be joined.
            gram += centred_gram(torch.stack([tensor.flatten() for tensor in tensors]))
    for merge in merge_tree(gram, counts):
        members = (*found[merge.one].members, *found[merge.other].members)
        found.append(Branch(tuple(sorted(members)), (merge.one, merge.other)))
    return found
