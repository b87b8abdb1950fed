import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.checkpoints.contents import Contents, Expert
from consolidation.compare.groups import EXPERTS, Choices, Content, Group, SlotChoice, Use
from consolidation.plan.quickest import TOLERANCE, quickest_plan
from consolidation.plan.seconds import FORMAT_S, LayerSeconds, formats_seconds
from consolidation.plan.solver import least_bytes, make_plan
from consolidation.plan.terms import LayerChoices, PlanTerms
from consolidation.plan.values import Plan
from consolidation.statistics.responses import Response
from representation.formats import DENSE, Format, LowRank, Packed, Split
from representation.step_reads import DecodeStep
from tests.consolidation.choices import SIZES, SLOT, digest, point, whole
from tests.consolidation.plan.test_solver import (
    MODELS,
    Lettered,
    asked,
    contents,
    layer_choices,
    make_contents,
)

USERS = ((Expert("a", 0), Expert("a", 1)), (Expert("b", 0),), (Expert("b", 1),))


def slot(fmt: Format, error: float = 0.0, *residual: Format) -> Choices:
    """All experts in one slot; the second and third are in error, and have residuals."""
    uses = (Use(0, (), 0.0), *(Use(i, whole(*residual), error / 2) for i in (1, 2)))
    return (SlotChoice(Content(EXPERTS, (0,)), whole(fmt), uses),)


def layer_of(*choices: Choices) -> LayerChoices:
    shares = ({"a": 1.0}, {"b": 1.0}, {"b": 1.0})
    group = Group((0, 1, 2), {}, shares, tuple(point(*choice) for choice in choices))
    distinct = Contents("m", tuple(digest(0, i) for i in range(3)), USERS)
    return LayerChoices(distinct, SIZES, (group,))


def chosen(*choices: Choices) -> Plan:
    wanted = PlanTerms(("a", "b"), 2 * SLOT, 2 * SLOT, None, 1.0)
    return quickest_plan([layer_of(*choices)], wanted, None)


@pytest.mark.parametrize(("error", "wanted"), [(10.2, "packed-2-16"), (10.4, "packed-3-16")])
def test_a_quicker_plan_is_taken_if_it_loses_little_more(error: float, wanted: str) -> None:
    plan = chosen(slot(Packed(3, 16), 10.0), slot(Packed(2, 16), error))
    assert set(plan.formats()) == {wanted}
    assert plan.error == (error if wanted == "packed-2-16" else 10.0)


def test_a_plan_that_takes_more_bytes_of_files_or_of_a_step_is_not_taken() -> None:
    quick, slow = slot(Packed(4, 16), 10.1), slot(Packed(3, 16), 10.0)
    least = chosen(slow)
    assert chosen(slow, quick) == least
    layer = layer_of(slow, quick)
    assert LayerSeconds(layer, DecodeStep()).of(quick) < LayerSeconds(layer, DecodeStep()).of(slow)


def test_what_loses_nothing_is_left_as_it_is() -> None:
    plan = chosen(slot(DENSE), slot(Packed(2, 16), 1e-9))
    assert set(plan.formats()) == {"dense"}


@given(contents, st.integers(0, 1000), st.floats(0.0, 1.0), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_plan_loses_and_reads_at_most_little_more_than_the_best_and_fits(
    layers: Lettered, seed: int, part: float, calibrated: bool
) -> None:
    choices = layer_choices(make_contents(layers), seed)
    responses = dict.fromkeys(MODELS, Response(0.01, 0.1)) if calibrated else None
    free = asked(layers, None, responses=responses)
    least = least_bytes(choices, free, None)
    most = make_plan(choices, free, None).expert_bytes_after
    wanted = dataclasses.replace(free, allowed=int(least + part * max(0, most - least)))
    best, plan = make_plan(choices, wanted, None), quickest_plan(choices, wanted, None)
    assert wanted.allowed is not None
    assert plan.expert_bytes_after <= wanted.allowed
    assert plan.error <= TOLERANCE * best.error
    assert plan.step_bytes <= best.step_bytes
    assert plan == quickest_plan(choices, wanted, None)


def seconds(choices: Choices, sequences: int = 4) -> float:
    return LayerSeconds(layer_of(choices), DecodeStep(1, sequences)).of(choices)


def test_a_plane_takes_time_by_row_and_bytes_take_it_once() -> None:
    one, two = seconds(slot(Packed(4, 16))), seconds(slot(Packed(3, 16)))
    assert 1.5 < two / one < 2
    assert seconds(slot(Split(8, 16))) > two
    assert seconds(slot(Packed(4, 16)), sequences=400) > 90 * one
    residual = seconds(slot(Packed(4, 16), 0.0, Packed(1, 16)))
    assert one < residual < 2 * one
    factors = seconds(slot(Packed(4, 16), 0.0, LowRank(1)))
    assert one < factors < residual


def test_each_format_of_a_layer_has_a_price() -> None:
    several = slot(Packed(4, 16), 0.0, Packed(1, 16), LowRank(2))
    assert formats_seconds([[several, slot(Packed(4, 16))], [slot(DENSE)]]) == 4 * FORMAT_S


def test_experts_of_an_encoder_take_no_time_of_a_step() -> None:
    layer = layer_of(slot(Packed(4, 16)))
    of_encoder = dataclasses.replace(
        layer, contents=dataclasses.replace(layer.contents, module="encoder.block.1.mlp.experts")
    )
    step = DecodeStep(1, has_encoder=True)
    assert LayerSeconds(layer, step).of(slot(Packed(4, 16))) > 0
    assert LayerSeconds(of_encoder, step).of(slot(Packed(4, 16))) == 0
