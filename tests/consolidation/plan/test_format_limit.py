import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consolidation.checkpoints.contents import Contents
from consolidation.compare.few_formats import cheapest, dropping
from consolidation.compare.part_form import PartForms
from consolidation.errors import Refused
from consolidation.plan.format_limit import least_bytes_within, within_formats
from consolidation.plan.quickest import TOLERANCE, quickest_plan
from consolidation.plan.solver import make_plan
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from consolidation.plan.values import Member, Plan
from representation.formats import DENSE, Format, LowRank, Packed
from tests.consolidation.choices import SIZES, SLOT
from tests.consolidation.plan.test_plan import release
from tests.consolidation.plan.test_solver import (
    Lettered,
    asked,
    contents,
    layer_choices,
    make_contents,
)

FORMATS: tuple[Format, ...] = (DENSE, LowRank(2), Packed(1, 16), Packed(4, 16))


def num_formats(plan: Plan) -> list[int]:
    """Labels in each layer."""
    return [
        len({one for s in layer.slots for one in (*_formats(s.forms), *_residuals(s.members))})
        for layer in plan.layers
    ]


def _residuals(members: Sequence[Member]) -> list[Format]:
    return [fmt for member in members for fmt in _formats(member.residuals)]


def _formats(forms: PartForms) -> list[Format]:
    return [one.format for one in forms]


def limited(choices: Sequence[LayerChoices], terms: PlanTerms) -> tuple[Plan, Plan] | None:
    """The plan of least error and the quickest; None if the budget cannot be met."""
    try:
        left = within_formats(choices, terms, None)
    except Refused:
        return None
    return make_plan(left, terms, None), quickest_plan(left, terms, None)


@given(contents, st.integers(0, 1000), st.floats(0.0, 1.1))
@settings(deadline=None, max_examples=15)
def test_no_layer_has_more_formats_and_more_formats_never_lose_more(
    layers: Lettered, seed: int, part: float
) -> None:
    choices = layer_choices(make_contents(layers), seed)
    most = make_plan(choices, asked(layers, None), None).expert_bytes_after
    errors: list[float] = []
    quickest: list[float] = []
    for limit in range(1, 9):
        terms = asked(layers, int(part * most), max_formats=limit)
        plans = limited(choices, terms)
        if plans is None:
            assert not errors, "a larger limit cannot be met where a smaller one can"
            continue
        for plan in plans:
            assert max(num_formats(plan)) <= limit
            assert terms.allowed is not None
            assert plan.expert_bytes_after <= terms.allowed
        errors.append(plans[0].error)
        quickest.append(plans[1].error)
    assert errors == sorted(errors, reverse=True)
    assert all(plan <= TOLERANCE * error for plan, error in zip(quickest, errors, strict=True))
    if errors:
        free = make_plan(choices, asked(layers, int(part * most)), None)
        assert errors[-1] <= free.error + 1e-9, "eight formats are all there are"


@given(contents, st.integers(0, 1000))
@example([[[0, 0], [0, 0], [1, 2]], [[0, 0], [0, 0], [0, 0]]], 1)
@settings(deadline=None, max_examples=10)
def test_the_fewest_bytes_that_are_stated_are_enough(layers: Lettered, seed: int) -> None:
    choices = layer_choices(make_contents(layers), seed)
    for limit in (1, 2, 4):
        terms = asked(layers, None, max_formats=limit)
        least = least_bytes_within(choices, terms, None)
        plans = limited(choices, dataclasses.replace(terms, allowed=least))
        assert plans is not None
        assert plans[0].expert_bytes_after <= least


@given(contents, st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_without_a_budget_nothing_is_lost_in_one_format(layers: Lettered, seed: int) -> None:
    plans = limited(layer_choices(make_contents(layers), seed), asked(layers, None, max_formats=1))
    assert plans is not None
    assert plans[0].error == plans[1].error == 0
    assert set(num_formats(plans[0])) == {1}


def test_a_budget_that_so_few_formats_cannot_meet_is_refused_with_the_limit() -> None:
    choices = layer_choices(make_contents([[[0, 1], [2, 3], [4, 5]]]), 1)
    with pytest.raises(Refused, match=r"with at most 1 formats a layer, an expert budget of .*met"):
        within_formats(choices, asked([[[0, 1]] * 3], 100, max_formats=1), None)


def test_formats_that_an_extended_release_keeps_count_and_are_named_if_too_many() -> None:
    extended = Extended(release(("packed-4-16", "dense", "packed-2-16")), ("old",))
    layer = LayerChoices(Contents("m", (), ()), SIZES, None)
    terms = PlanTerms(("old",), 2 * SLOT, None, None, 0.0, max_formats=4)
    assert within_formats([layer], terms, extended) == [layer]
    labels = "dense, packed-2-16, packed-4-16, rank-2"
    with pytest.raises(Refused, match=rf"m keeps parts in 4 formats \({labels}\); at most 3 are"):
        within_formats([layer], dataclasses.replace(terms, max_formats=3), extended)


def test_formats_are_dropped_by_what_they_are_missed_until_something_would_be_lacking() -> None:
    dense, rank, one, four = (frozenset((fmt,)) for fmt in FORMATS)
    groups = [[(1.0, four | one), (3.0, four), (9.0, dense)], [(1.0, four | rank), (2.0, four)]]
    sets = dropping(FORMATS, (), lambda left: sum(cheapest(own, left) for own in groups))
    assert list(sets) == [dense | rank | one | four, rank | one | four, one | four, four]
    kept = dropping(FORMATS, dense, lambda left: sum(cheapest(own, left) for own in groups))
    assert list(kept)[-1] == dense | four
