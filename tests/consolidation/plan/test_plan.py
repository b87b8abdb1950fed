import math
from collections.abc import Sequence

import pytest

from consolidation.checkpoints.contents import Contents, Expert, NeuronOrder
from consolidation.compare.groups import (
    BASE,
    EXPERTS,
    KEPT,
    Content,
    Group,
    SlotChoice,
    Use,
)
from consolidation.compare.part_form import AS_IT_IS, PartForm
from consolidation.errors import Refused
from consolidation.plan.solver import least_bytes, make_plan
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from consolidation.plan.values import Held, Plan
from consolidation.release import (
    Layer,
    Manifest,
    Model,
    Part,
    Source,
)
from consolidation.statistics.responses import Response
from representation.formats import DENSE, Format, LowRank, Packed
from tests.consolidation.choices import SHAPE, SIZES, SLOT, digest, map_bytes, point, whole


def shared(error: float, fmt: Format = DENSE, residual: tuple[Format, ...] = ()) -> SlotChoice:
    uses = (Use(0, (), 0.0), Use(1, whole(*residual), error))
    return SlotChoice(Content(EXPERTS, (0,)), whole(fmt), uses)


def one_layer(*slots: SlotChoice, via: dict[int, int] | None = None) -> LayerChoices:
    """Experts 0 of `a` and 1 of `b`, of which these slots are the only way to have them."""
    users = ((Expert("a", 0), Expert("a", 1)), (Expert("b", 0), Expert("b", 1)))
    contents = Contents("m", (digest(0, 0), digest(0, 1)), users)
    group = Group((0, 1), via or {}, ({"a": 1.0}, {"b": 0.5}), (point(*slots),))
    return LayerChoices(contents, SIZES, (group,))


def small(layer: LayerChoices, **fields: object) -> Plan:
    """The plan of a layer, with fewer bytes than two dense slots take."""
    wanted = {"responses": None, "square_norm": 16.0, **fields}
    needed = PlanTerms(("a", "b"), 2 * SLOT, None, None, 1.0)
    allowed = least_bytes([layer], needed, None)
    return make_plan([layer], PlanTerms(("a", "b"), 2 * SLOT, allowed, **wanted), None)  # type: ignore[arg-type]


def test_errors_are_told_by_model_and_as_what_they_make_of_the_weights() -> None:
    plan = small(one_layer(shared(8.0)))
    assert plan.error == 4.0
    assert plan.relative_error == math.sqrt(4.0 / 16.0)
    assert plan.approximated == {"b"}
    assert small(one_layer(shared(8.0)), square_norm=0.0).relative_error == 0


def test_predictions_are_what_models_respond_to_errors_with() -> None:
    responses = {"a": Response(2.0, 1.0), "b": Response(2.0, 1.0)}
    plan = small(one_layer(shared(8.0)), responses=responses)
    assert plan.predicted_kl == {"a": 0.0, "b": 2 * 4.0 + 2.0}
    assert plan.error == 10.0
    assert plan.relative_error is None


def test_formats_are_counted_by_expert() -> None:
    plan = small(one_layer(shared(1.0, Packed(4, 16), (LowRank(2), Packed(1, 16)))))
    assert plan.formats() == {
        "packed-4-16": 2,
        "packed-4-16 + rank-2 + packed-1-16": 2,
    }
    assert plan.residual_map == {"a": (), "b": (((0, 1), (0, 1)),)}
    assert plan.approximated == {"a", "b"}
    assert plan.layers[0].slots[0].digest is None


def test_plans_that_build_the_same_have_one_digest() -> None:
    plan = small(one_layer(shared(1.0)))
    assert plan.digest == small(one_layer(shared(2.0))).digest
    assert plan.digest != small(one_layer(shared(1.0, Packed(4, 16)))).digest


def test_a_mean_counts_each_content_as_often_as_it_is_had() -> None:
    uses = (Use(0, (), 1.0), Use(1, (), 1.0))
    plan = small(one_layer(SlotChoice(Content(EXPERTS, (0, 1)), AS_IT_IS, uses)))
    (slot,) = plan.layers[0].slots
    assert slot.holds == (Held("a", 0, 2), Held("b", 0, 2))
    assert slot.digest is None


def test_a_slot_may_hold_the_expert_of_the_base() -> None:
    uses = (Use(0, (), 1.0), Use(1, (), 1.0))
    plan = small(one_layer(SlotChoice(Content(BASE, (0,)), AS_IT_IS, uses)))
    assert plan.layers[0].slots[0].holds == (Held(None, 0),)
    assert plan.approximated == {"a", "b"}


def test_experts_in_another_order_are_put_in_that_of_what_they_share() -> None:
    plan = small(one_layer(shared(1.0), via={1: 1}))
    first, second = plan.layers[0].slots[0].members
    assert first.order is None
    assert second.order == NeuronOrder(Expert("b", 0), Expert("a", 0))
    assert plan.layers[0].slots[0].digest == digest(0, 0)
    base = SlotChoice(Content(BASE, (0,)), whole(Packed(8, 16)), (Use(1, (), 1.0),))
    plan = small(one_layer(SlotChoice.exactly(0, None), base, via={1: 1}))
    (base_slot,) = [slot for slot in plan.layers[0].slots if slot.holds == (Held(None, 0),)]
    assert base_slot.members[0].order == second.order


def test_experts_in_another_order_that_share_with_none_are_left_in_it() -> None:
    plan = small(
        one_layer(
            SlotChoice(Content(EXPERTS, (0,)), whole(Packed(4, 16)), (Use(0, (), 1.0),)),
            SlotChoice.exactly(1, None),
            via={1: 1},
        )
    )
    slot = plan.layers[0].slots[1]
    assert slot.holds == (Held("b", 0, 2),)
    assert slot.members[0].order is None
    assert slot.digest == digest(0, 1)
    assert plan.approximated == {"a"}


def release(formats: Sequence[str] = ("dense",) * 3) -> Manifest:
    """One layer with three slots and two residuals; `old` uses two and one, `gone` the others."""
    slots = [Part(digest=digest(0, i), bytes=SLOT + i, format=f) for i, f in enumerate(formats)]
    residuals = [Part(digest=digest(1, i), bytes=100 + i, format="rank-2") for i in range(2)]

    def model(row: tuple[int, ...], added: tuple[tuple[int, ...], ...]) -> Model:
        return Model(
            config={},
            generation_config={},
            tokenizer_files={},
            backbone=(),
            expert_map=(row,),
            residual_map=(added,) if any(added) else (),
            source=Source(name="x", digest="0" * 64),
        )

    return Manifest(
        family="fam",
        architecture="X",
        dtype="float32",
        layers=(
            Layer(
                module="m",
                parameters=dict(SHAPE.parameters),
                slots=tuple(slots),
                residuals=tuple(residuals),
            ),
        ),
        models={"old": model((0, 2), ((), (1,))), "gone": model((1, 1), ((), (0,)))},
        expert_bytes_before=0,
        expert_bytes_after=0,
        expert_bytes_one_model=2 * SLOT,
        quality={},
        provenance={},
    )


def test_what_stays_of_a_release_is_kept_and_new_models_may_use_it() -> None:
    manifest = release()
    extended = Extended(manifest, ("old",))
    assert extended.slots(0) == [0, 2]
    assert extended.residuals(0) == [1]
    users = ((Expert("new", 0),), (Expert("new", 1),))
    # `new` has what the slot of `gone` holds, and something near a slot of `old`.
    contents = Contents("m", (digest(0, 1), digest(0, 9)), users, {digest(0, 1): 1})
    near = SlotChoice(Content(KEPT, (2,)), AS_IT_IS, (Use(1, whole(LowRank(2)), 3.0),))
    group = Group((1,), {}, ({"new": 1.0},), (point(near),))
    layer = LayerChoices(contents, SIZES, (group,))
    wanted = PlanTerms(("new", "old"), 2 * SLOT, None, None, 1.0)
    allowed = least_bytes([layer], wanted, extended)
    plan = make_plan([layer], PlanTerms(("new", "old"), 2 * SLOT, allowed, None, 1.0), extended)
    (made,) = plan.layers
    assert [kept.index for kept in made.kept] == [0, 1, 2]
    assert made.kept_residuals == (1,)
    assert made.slots == ()
    assert plan.expert_map == {"new": ((1, 2),), "old": ((0, 2),)}
    assert plan.residual_map == {"new": (((), (1,)),), "old": (((), (0,)),)}
    assert plan.residuals("new", 0, 1) == (1,)
    assert plan.formats() == {"kept": 1, "kept + rank-2": 1}
    assert plan.approximated == {"new"}
    assert plan.error == 3.0
    sizes = [SLOT, SLOT + 1, SLOT + 2, 101, SIZES.residual(PartForm(LowRank(2)))]
    assert plan.expert_bytes_after == sum(sizes) + map_bytes(plan)
    lossless = make_plan([layer], wanted, extended)
    assert lossless.error == 0
    assert not lossless.approximated
    assert len(lossless.layers[0].slots) == 1


def test_a_release_may_be_extended_by_nothing() -> None:
    extended = Extended(release(), ("old",))
    layer = LayerChoices(Contents("m", (), ()), SIZES, None)
    plan = make_plan([layer], PlanTerms(("old",), 2 * SLOT, None, None, 0.0), extended)
    assert plan.expert_map == {"old": ((0, 1),)}
    assert plan.residual_map == {"old": (((), (0,)),)}
    assert plan.relative_error == 0
    with pytest.raises(Refused, match="cannot be met"):
        make_plan([layer], PlanTerms(("old",), 2 * SLOT, SLOT, None, 0.0), extended)


def test_groups_come_back_from_json_and_are_numbered_anew() -> None:
    choice = SlotChoice(
        Content(EXPERTS, (1, 0)),
        (PartForm(Packed(4, 16), ("gate_up_proj",)), PartForm(Packed(8, 16), ("down_proj",))),
        (Use(0, (), 0.25), Use(1, whole(LowRank(2), Packed(1, 16)), 0.5)),
    )
    base = SlotChoice(Content(BASE, (1,)), AS_IT_IS, (Use(0, (), 1.5), Use(1, (), 2.0)))
    group = Group((0, 1), {1: 1}, ({"a": 1.0}, {"b": 0.5}), (point(base), point(choice)))
    assert Group.from_json(group.to_json()) == group
    numbered = group.numbered([7, 4])
    assert numbered.members == (7, 4)
    assert numbered.via == {4: 4}
    assert numbered.points[1].choice[0].content == Content(EXPERTS, (4, 7))
    assert [use.expert for use in numbered.points[1].choice[0].uses] == [7, 4]
    assert numbered.points[0].choice[0].content == Content(BASE, (1,))
