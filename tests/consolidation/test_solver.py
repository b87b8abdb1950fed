import itertools
import math
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from consolidation.errors import Refused
from consolidation.frontier import Point, frontier
from consolidation.groups import (
    BASE,
    EXPERTS,
    KEPT,
    Choices,
    Content,
    Group,
    SlotChoice,
    Use,
)
from consolidation.menu import Sizes
from consolidation.plan import Held, Plan
from consolidation.pool import Expert, Order, Pool, pools
from consolidation.release import (
    Layer,
    Manifest,
    Model,
    Part,
    Source,
    expert_map_bytes,
    residual_map_bytes,
)
from consolidation.scan import LayerScan
from consolidation.solver import (
    Asked,
    Extended,
    LayerChoices,
    budget_bytes,
    fewest_bytes,
    make_plan,
)
from consolidation.statistics import Response
from representation.formats import DENSE, ExpertShape, Format, low_rank, packed

MODELS = ("a", "b", "c")
SHAPE = ExpertShape({"gate_up_proj": (32, 16), "down_proj": (16, 16)}, False)
SIZES = Sizes(SHAPE, torch.float32)
SLOT = SIZES.slot(DENSE)
SLOT_FORMATS = (DENSE, packed(8, 16), packed(4, 16), packed(2, 16))
RESIDUALS: tuple[tuple[Format, ...], ...] = (
    (),
    (packed(1, 16),),
    (low_rank(2),),
    (low_rank(2), packed(1, 16)),
)
Contents = list[list[list[int]]]


def digest(layer: int, value: int) -> str:
    return f"{layer:032x}{value:032x}"


def make_pools(layers: Contents, kept: Sequence[dict[str, int]] | None = None) -> list[Pool]:
    """layers[layer][model][index] is the content of an expert, as a number."""
    scans = {
        name: tuple(
            LayerScan(tuple(digest(number, v) for v in layer[m]), SLOT, (1.0,) * len(layer[m]))
            for number, layer in enumerate(layers)
        )
        for m, name in enumerate(MODELS)
    }
    return pools([f"layer{i}" for i in range(len(layers))], scans, kept)


def point(*slots: SlotChoice) -> Point[Choices]:
    residuals = [f for slot in slots for use in slot.uses for f in use.residual]
    built = [slot for slot in slots if slot.content.kind != KEPT]
    size = sum(SIZES.slot(slot.format) for slot in built) + sum(map(SIZES.residual, residuals))
    return Point(size, math.fsum(use.error for slot in slots for use in slot.uses), slots)


def group_of(members: Sequence[int], users: Sequence[Sequence[Expert]], seed: int) -> Group:
    """Members each by themselves, or all in one slot in some formats; errors are whole numbers."""
    generator = random.Random(seed)
    points = [point(*(SlotChoice.exactly(member, None) for member in members))]
    for fmt in generator.sample(SLOT_FORMATS, 2):
        for residual in generator.sample(RESIDUALS, 2):
            content = Content(EXPERTS, tuple(generator.sample(members, 1)))
            uses = tuple(Use(m, residual, float(generator.randint(1, 40))) for m in members)
            points.append(point(SlotChoice(content, fmt, uses)))
    shares = []
    for member in members:
        names = [user.model for user in users[member]]
        shares.append({name: names.count(name) / len(names) for name in names})
    return Group(tuple(members), {}, tuple(shares), frontier(points))


def layer_choices(layer_pools: Sequence[Pool], seed: int) -> list[LayerChoices]:
    generator = random.Random(seed)
    found = []
    for pool in layer_pools:
        positions = list(range(len(pool.digests)))
        groups = []
        while positions:
            count = generator.randint(1, 3)
            members, positions = positions[:count], positions[count:]
            groups.append(group_of(members, pool.users, generator.randint(0, 1 << 30)))
        found.append(LayerChoices(pool, SIZES, tuple(groups)))
    return found


def asked(layers: Contents, allowed: int | None, **fields: object) -> Asked:
    one_model = len(layers[0][0]) * len(layers) * SLOT
    known = {"responses": None, "square_norm": 1.0, **fields}
    return Asked(models=MODELS, one_model=one_model, allowed=allowed, **known)  # type: ignore[arg-type]


def planned(layers: Contents, allowed: int | None, seed: int = 0) -> Plan:
    return make_plan(layer_choices(make_pools(layers), seed), asked(layers, allowed), None)


contents = st.lists(
    st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=3, max_size=3),
    min_size=1,
    max_size=2,
)


def map_bytes(plan: Plan) -> int:
    own = [expert_map_bytes(plan.expert_map[name]) for name in plan.models]
    return sum(own) + sum(residual_map_bytes(plan.residual_map[name]) for name in plan.models)


def exact_bytes(plan: Plan) -> int:
    """Counted over again: files, each known content once, and maps."""
    files: dict[object, int] = {}
    for number, layer in enumerate(plan.layers):
        for place, slot in enumerate(layer.slots):
            files[slot.digest or (number, place)] = SIZES.slot(slot.format)
        for place, (_, member) in enumerate(layer.members):
            for fmt in member.residuals:
                files[number, place, fmt] = SIZES.residual(fmt)
    return sum(files.values()) + map_bytes(plan)


def check(plan: Plan, layers: Contents) -> None:
    """Every expert is in its slot and has the residuals of the member that it belongs to."""
    assert plan.expert_bytes_after == exact_bytes(plan)
    for m, name in enumerate(MODELS):
        for number, row in enumerate(plan.expert_map[name]):
            layer = plan.layers[number]
            before = 0
            formats: dict[Expert, tuple[int, tuple[int, ...]]] = {}
            for slot, member in layer.members:
                own = tuple(range(before, before + len(member.residuals)))
                before += len(own)
                formats |= dict.fromkeys(member.users, (slot, own))
            for index, slot in enumerate(row):
                found = formats[Expert(name, index)]
                assert found == (slot, plan.residuals(name, number, index))
                known = layer.slots[slot].digest
                value = digest(number, layers[number][m][index])
                assert not known or name in plan.approximated or known == value


@given(contents, st.integers(0, 1000), st.floats(0.0, 1.2))
@settings(deadline=None, max_examples=30)
def test_the_budget_holds_in_exact_bytes_or_is_refused_with_the_least_there_is(
    layers: Contents, seed: int, part: float
) -> None:
    choices = layer_choices(make_pools(layers), seed)
    wanted = asked(layers, None)
    most = make_plan(choices, wanted, None).expert_bytes_after
    least = fewest_bytes(choices, wanted, None)
    allowed = int(part * most)
    if allowed < least:
        with pytest.raises(Refused, match=f"cannot be met: .* need {least} bytes") as refused:
            planned(layers, allowed, seed)
        budget = float(str(refused.value).split()[-1])
        enough = budget_bytes(budget, wanted.one_model, 1000)
        assert enough is not None
        assert least <= enough <= least + wanted.one_model / 10000 + 1
        return
    plan = planned(layers, allowed, seed)
    assert plan.expert_bytes_after <= allowed
    assert plan.budget_bytes == allowed
    check(plan, layers)


@given(contents, st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_at_the_corners_of_the_hull_no_choice_is_better(layers: Contents, seed: int) -> None:
    choices = layer_choices(make_pools(layers), seed)
    frontiers = [group.points for layer in choices for group in layer.groups or ()]
    every: list[Point[object]] = []
    assume(math.prod(map(len, frontiers)) <= 4000)
    for chosen in itertools.product(*frontiers):
        size, error = sum(p.num_bytes for p in chosen), sum(p.error for p in chosen)
        every.append(Point(size, error, None))
    # Maps are a little over what files take, more or less the same for all.
    wanted = asked(layers, None)
    maps = fewest_bytes(choices, wanted, None) - min(p.num_bytes for p in every)
    for corner in frontier(every):
        plan = planned(layers, corner.num_bytes + maps + 40 * len(MODELS), seed)
        if not plan.approximated:
            continue  # All that is different has a slot of its own, which no group need have.
        assert plan.error <= corner.error + 1e-9
        files = plan.expert_bytes_after - map_bytes(plan)
        assert plan.error >= min(p.error for p in every if p.num_bytes <= files) - 1e-9


@given(contents, st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_more_bytes_never_cost_more_and_enough_of_them_nothing(layers: Contents, seed: int) -> None:
    choices = layer_choices(make_pools(layers), seed)
    wanted = asked(layers, None)
    least = fewest_bytes(choices, wanted, None)
    most = make_plan(choices, wanted, None)
    errors = []
    for step in range(12):
        allowed = least + (most.expert_bytes_after - least) * step // 11
        plan = planned(layers, allowed, seed)
        assert plan == planned(layers, allowed, seed)
        errors.append(plan.error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    assert not most.approximated
    assert most.error == 0
    check(most, layers)


def test_identical_experts_share_a_slot_without_being_asked() -> None:
    plan = planned([[[1, 2, 3], [1, 2, 4], [1, 1, 1]]], None)
    assert plan.expert_map == {"a": ((0, 1, 2),), "b": ((0, 1, 3),), "c": ((0, 0, 0),)}
    assert plan.residual_map == {"a": (), "b": (), "c": ()}
    assert plan.num_slots == 4
    assert plan.num_experts == 9
    assert plan.formats() == {"dense": 9}
    maps = sum(expert_map_bytes(rows) for rows in plan.expert_map.values())
    assert plan.expert_bytes_after == 4 * SLOT + maps
    assert plan.relative_error == 0
    assert plan.predicted_kl is None


def test_a_content_that_lies_in_two_layers_is_counted_once() -> None:
    same = LayerScan(("0" * 64,), SLOT, (1.0,))
    layer_pools = pools(["x", "y"], {"a": (same, same)})
    choices = [LayerChoices(pool, SIZES, None) for pool in layer_pools]
    wanted = Asked(("a",), 2 * SLOT, None, None, 1.0)
    plan = make_plan(choices, wanted, None)
    assert plan.expert_bytes_after == SLOT + expert_map_bytes(((0,), (0,)))
    assert fewest_bytes(choices, wanted, None) == plan.expert_bytes_after


def shared(error: float, fmt: Format = DENSE, residual: tuple[Format, ...] = ()) -> SlotChoice:
    uses = (Use(0, (), 0.0), Use(1, residual, error))
    return SlotChoice(Content(EXPERTS, (0,)), fmt, uses)


def one_layer(*slots: SlotChoice, via: dict[int, int] | None = None) -> LayerChoices:
    """Experts 0 of `a` and 1 of `b`, of which these slots are the only way to have them."""
    users = ((Expert("a", 0), Expert("a", 1)), (Expert("b", 0), Expert("b", 1)))
    pool = Pool("m", (digest(0, 0), digest(0, 1)), users)
    group = Group((0, 1), via or {}, ({"a": 1.0}, {"b": 0.5}), (point(*slots),))
    return LayerChoices(pool, SIZES, (group,))


def small(layer: LayerChoices, **fields: object) -> Plan:
    """The plan of a layer, with fewer bytes than two dense slots take."""
    wanted = {"responses": None, "square_norm": 16.0, **fields}
    needed = Asked(("a", "b"), 2 * SLOT, None, None, 1.0)
    allowed = fewest_bytes([layer], needed, None)
    return make_plan([layer], Asked(("a", "b"), 2 * SLOT, allowed, **wanted), None)  # type: ignore[arg-type]


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
    plan = small(one_layer(shared(1.0, packed(4, 16), (low_rank(2), packed(1, 16)))))
    assert plan.formats() == {
        "packed-4-16": 2,
        "packed-4-16 + rank-2 + packed-1-16": 2,
    }
    assert plan.residual_map == {"a": (), "b": (((0, 1), (0, 1)),)}
    assert plan.approximated == {"a", "b"}
    assert plan.layers[0].slots[0].digest is None


def test_a_mean_counts_each_content_as_often_as_it_is_had() -> None:
    uses = (Use(0, (), 1.0), Use(1, (), 1.0))
    plan = small(one_layer(SlotChoice(Content(EXPERTS, (0, 1)), DENSE, uses)))
    (slot,) = plan.layers[0].slots
    assert slot.holds == (Held("a", 0, 2), Held("b", 0, 2))
    assert slot.digest is None


def test_a_slot_may_hold_the_expert_of_the_base() -> None:
    uses = (Use(0, (), 1.0), Use(1, (), 1.0))
    plan = small(one_layer(SlotChoice(Content(BASE, (0,)), DENSE, uses)))
    assert plan.layers[0].slots[0].holds == (Held(None, 0),)
    assert plan.approximated == {"a", "b"}


def test_experts_in_another_order_are_put_in_that_of_what_they_share() -> None:
    plan = small(one_layer(shared(1.0), via={1: 1}))
    first, second = plan.layers[0].slots[0].members
    assert first.order is None
    assert second.order == Order(Expert("b", 0), Expert("a", 0))
    assert plan.layers[0].slots[0].digest == digest(0, 0)
    base = SlotChoice(Content(BASE, (0,)), packed(8, 16), (Use(1, (), 1.0),))
    plan = small(one_layer(SlotChoice.exactly(0, None), base, via={1: 1}))
    (base_slot,) = [slot for slot in plan.layers[0].slots if slot.holds == (Held(None, 0),)]
    assert base_slot.members[0].order == second.order


def test_experts_in_another_order_that_share_with_none_are_left_in_it() -> None:
    plan = small(
        one_layer(
            SlotChoice(Content(EXPERTS, (0,)), packed(4, 16), (Use(0, (), 1.0),)),
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
    pool = Pool("m", (digest(0, 1), digest(0, 9)), users, {digest(0, 1): 1})
    near = SlotChoice(Content(KEPT, (2,)), DENSE, (Use(1, (low_rank(2),), 3.0),))
    group = Group((1,), {}, ({"new": 1.0},), (point(near),))
    layer = LayerChoices(pool, SIZES, (group,))
    wanted = Asked(("new", "old"), 2 * SLOT, None, None, 1.0)
    allowed = fewest_bytes([layer], wanted, extended)
    plan = make_plan([layer], Asked(("new", "old"), 2 * SLOT, allowed, None, 1.0), extended)
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
    sizes = [SLOT, SLOT + 1, SLOT + 2, 101, SIZES.residual(low_rank(2))]
    assert plan.expert_bytes_after == sum(sizes) + map_bytes(plan)
    lossless = make_plan([layer], wanted, extended)
    assert lossless.error == 0
    assert not lossless.approximated
    assert len(lossless.layers[0].slots) == 1


def test_a_release_may_be_extended_by_nothing() -> None:
    extended = Extended(release(), ("old",))
    layer = LayerChoices(Pool("m", (), ()), SIZES, None)
    plan = make_plan([layer], Asked(("old",), 2 * SLOT, None, None, 0.0), extended)
    assert plan.expert_map == {"old": ((0, 1),)}
    assert plan.residual_map == {"old": (((), (0,)),)}
    assert plan.relative_error == 0
    with pytest.raises(Refused, match="cannot be met"):
        make_plan([layer], Asked(("old",), 2 * SLOT, SLOT, None, 0.0), extended)


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_a_positive_number(budget: float) -> None:
    with pytest.raises(Refused, match="positive"):
        budget_bytes(budget, 100, 2)


def test_a_budget_of_as_many_models_as_there_are_asks_for_nothing() -> None:
    assert budget_bytes(None, 100, 2) is None
    assert budget_bytes(2.0, 100, 2) is None
    assert budget_bytes(1.5, 100, 2) == 150


def test_groups_come_back_from_json_and_are_numbered_anew() -> None:
    choice = SlotChoice(
        Content(EXPERTS, (1, 0)),
        packed(4, 16),
        (Use(0, (), 0.25), Use(1, (low_rank(2), packed(1, 16)), 0.5)),
    )
    base = SlotChoice(Content(BASE, (1,)), DENSE, (Use(0, (), 1.5), Use(1, (), 2.0)))
    group = Group((0, 1), {1: 1}, ({"a": 1.0}, {"b": 0.5}), (point(base), point(choice)))
    assert Group.from_json(group.to_json()) == group
    numbered = group.numbered([7, 4])
    assert numbered.members == (7, 4)
    assert numbered.via == {4: 4}
    assert numbered.points[1].choice[0].content == Content(EXPERTS, (4, 7))
    assert [use.expert for use in numbered.points[1].choice[0].uses] == [7, 4]
    assert numbered.points[0].choice[0].content == Content(BASE, (1,))
