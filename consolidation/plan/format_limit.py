"""Leaves to each layer only choices in few formats. The solver plans with what is left.

At a price of a byte, the formats of a layer are given up one after another, those first that are
missed least. Which price is right depends on what is left, so a few are tried.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from consolidation.arithmetic.frontier import Point, frontier, least_sum, steps
from consolidation.compare.few_formats import Formats, Option, cheapest, dropping
from consolidation.compare.groups import Choices, Group, SlotChoice
from consolidation.compare.part_form import AS_IT_IS
from consolidation.errors import Refused
from consolidation.plan.solver import chosen_bytes, least_bytes, least_error, lossless_plan
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from representation.formats import DENSE

TIMES = (1.0, 10.0, 1000.0)
"""Prices of a byte that are tried, over that at which the budget would be spent without a limit."""
LITTLE = 1e-18
"""A price of a byte in error: it decides between choices that lose the same."""
MUCH = 1e6
"""A price at which bytes alone decide."""


def within_formats(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> Sequence[LayerChoices]:
    """The layers with the choices in few enough formats, so that the least error is lost.

    Raises `Refused` if that cannot be, or not within the bytes allowed.
    """
    if terms.max_formats is None:
        return layers
    best: tuple[tuple[float, int], Sequence[LayerChoices]] | None = None
    refused: Refused | None = None
    for price in _prices(layers, terms):
        for tried in _fewer_and_fewer(layers, price, terms, extended):
            if best is not None and _bound(tried, terms) >= best[0][0]:
                continue
            try:
                found = _lost(tried, terms, extended), tried
            except Refused as error:
                refused = error
                continue
            best = found if best is None else min(best, found, key=lambda one: one[0])
    if best is None:
        assert refused is not None
        raise Refused(f"with at most {terms.max_formats} formats a layer, {refused}")
    return best[1]


def least_bytes_within(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> int:
    """Bytes that are enough for a plan in few enough formats. Raises `Refused`.

    Formats are given up by bytes alone here. A plan for that budget gives them up at other prices
    too, and now and then needs fewer.
    """
    if terms.max_formats is not None:
        layers = next(_fewer_and_fewer(layers, MUCH, terms, extended))
    return least_bytes(layers, terms, extended)


def _lost(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> tuple[float, int]:
    """The least error, and the bytes that it takes. Raises `Refused`."""
    choices = least_error(layers, terms, extended)
    if choices is None:
        return 0.0, lossless_plan(layers, terms, extended).expert_bytes_after
    uses = (use for slots in choices for slot in slots for use in slot.uses)
    return math.fsum(use.error for use in uses), chosen_bytes(layers, choices, terms, extended)


def _needed(
    layer: LayerChoices, number: int, terms: PlanTerms, extended: Extended | None
) -> Formats:
    """Formats that a layer has in any case. Raises `Refused` if those are too many."""
    found = set()
    if extended is not None:
        there = extended.manifest.layers[number]
        kept = [part for slot in extended.slots(number) for part in there.slot_parts(slot)]
        found = {DENSE, *(part.parsed for part in kept)}
        found |= {there.residuals[index].parsed for index in extended.residuals(number)}
    grouped = sum(len(group.members) for group in layer.groups or ())
    if grouped < len(layer.contents.digests):
        found.add(DENSE)
    assert terms.max_formats is not None
    if len(found) > terms.max_formats:
        labels = ", ".join(map(str, sorted(found)))
        raise Refused(
            f"{layer.contents.module} keeps parts in {len(found)} formats ({labels}); at most "
            f"{terms.max_formats} are allowed"
        )
    return frozenset(found)


def _with_exact(layer: LayerChoices) -> LayerChoices:
    """The layer, where every group may also have each expert as it is."""
    groups = []
    for group in layer.groups or ():
        exact = tuple(SlotChoice.exactly(member, None) for member in group.members)
        point = Point(len(exact) * layer.sizes.slot(AS_IT_IS), 0.0, exact)
        groups.append(replace(group, points=(*group.points, point)))
    return replace(layer, groups=None if layer.groups is None else tuple(groups))


def _prices(layers: Sequence[LayerChoices], terms: PlanTerms) -> list[float]:
    """Prices of a byte at which to give up formats."""
    if terms.allowed is None:
        return [LITTLE, MUCH]
    frontiers = [frontier(group.points) for layer in layers for group in layer.groups or ()]
    left = terms.allowed - sum(points[0].num_bytes for points in frontiers)
    price = LITTLE
    at = [0] * len(frontiers)
    for gain, which in steps(frontiers):
        before, after = frontiers[which][at[which] : at[which] + 2]
        at[which] += 1
        left -= after.num_bytes - before.num_bytes
        price = max(gain, LITTLE)
        if left <= 0:
            break
    return [*(times * price for times in TIMES), MUCH]


def _fewer_and_fewer(
    layers: Sequence[LayerChoices], price: float, terms: PlanTerms, extended: Extended | None
) -> Iterator[list[LayerChoices]]:
    """The layers with as many formats as they may have, then with one less each, and so on.

    Raises `Refused` if there are more than that in any case.
    """
    assert terms.max_formats is not None
    whole = [_with_exact(layer) for layer in layers]
    needed = [_needed(layer, number, terms, extended) for number, layer in enumerate(layers)]
    sets = [list(_sets(layer, own, price)) for layer, own in zip(whole, needed, strict=True)]
    for limit in range(terms.max_formats, 0, -1):
        chosen = [next((one for one in own if len(one) <= limit), None) for own in sets]
        if None in chosen:
            return
        yield [_within(*one) for one in zip(whole, chosen, strict=True)]


def _sets(layer: LayerChoices, needed: Formats, price: float) -> Iterator[Formats]:
    groups = [
        sorted((_option(point, price) for point in group.points), key=lambda option: option[0])
        for group in layer.groups or ()
    ]
    every = {fmt for options in groups for _, formats in options for fmt in formats}
    yield from dropping(
        every, needed, lambda formats: sum(cheapest(options, formats) for options in groups)
    )
    yield needed | {DENSE}


def _option(point: Point[Choices], price: float) -> Option:
    formats = frozenset(fmt for slot in point.choice for fmt in slot.formats)
    return point.error + price * point.num_bytes, formats


def _within(layer: LayerChoices, formats: Formats | None) -> LayerChoices:
    assert formats is not None

    def left(group: Group) -> Group:
        points = [point for point in group.points if _option(point, 0.0)[1] <= formats]
        return replace(group, points=frontier(points))

    groups = None if layer.groups is None else tuple(map(left, layer.groups))
    return replace(layer, groups=groups)


def _bound(layers: Sequence[LayerChoices], terms: PlanTerms) -> float:
    if terms.allowed is None:
        return 0.0
    return least_sum([g.points for layer in layers for g in layer.groups or ()], terms.allowed)
