import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from consolidation.arithmetic.frontier import Point, frontier
from consolidation.checkpoints.contents import Contents, Expert, contents_by_layer
from consolidation.checkpoints.scan import LayerScan
from consolidation.compare.groups import (
    EXPERTS,
    Content,
    Group,
    SlotChoice,
    Use,
)
from consolidation.compare.part_form import joined
from consolidation.errors import Refused
from consolidation.plan.chosen_bytes import ChosenBytes
from consolidation.plan.solver import budget_bytes, chosen_plan, least_bytes, make_plan
from consolidation.plan.terms import LayerChoices, PlanTerms
from consolidation.plan.values import Plan
from consolidation.release import (
    expert_map_bytes,
)
from representation.formats import DENSE, Format, LowRank, Packed
from tests.consolidation.choices import SIZES, SLOT, digest, map_bytes, point, whole

MODELS = ("a", "b", "c")
SLOT_FORMATS = (DENSE, Packed(8, 16), Packed(4, 16), Packed(2, 16))
RESIDUALS: tuple[tuple[Format, ...], ...] = (
    (),
    (Packed(1, 16),),
    (LowRank(2),),
    (LowRank(2), Packed(1, 16)),
)
Lettered = list[list[list[int]]]


def make_contents(layers: Lettered, kept: Sequence[dict[str, int]] | None = None) -> list[Contents]:
    """layers[layer][model][index] is the content of an expert, as a number."""
    scans = {
        name: tuple(
            LayerScan(
                tuple(digest(number, v) for v in layer[m]),
                (1.0,) * len(layer[m]),
                (None,) * len(layer[m]),
            )
            for number, layer in enumerate(layers)
        )
        for m, name in enumerate(MODELS)
    }
    return contents_by_layer([f"layer{i}" for i in range(len(layers))], scans, kept)


def group_of(members: Sequence[int], users: Sequence[Sequence[Expert]], seed: int) -> Group:
    """Members each by themselves, or all in one slot in some formats; errors are whole numbers."""
    generator = random.Random(seed)
    points = [point(*(SlotChoice.exactly(member, None) for member in members))]
    for fmt, other in zip(*(generator.sample(SLOT_FORMATS, 2) for _ in range(2)), strict=True):
        slot = joined({"gate_up_proj": (fmt,), "down_proj": (other,)})
        for residual in generator.sample(RESIDUALS, 2):
            content = Content(EXPERTS, tuple(generator.sample(members, 1)))
            uses = tuple(Use(m, whole(*residual), float(generator.randint(1, 40))) for m in members)
            points.append(point(SlotChoice(content, slot, uses)))
    shares = []
    for member in members:
        names = [user.model for user in users[member]]
        shares.append({name: names.count(name) / len(names) for name in names})
    return Group(tuple(members), {}, tuple(shares), frontier(points))


def layer_choices(by_layer: Sequence[Contents], seed: int) -> list[LayerChoices]:
    generator = random.Random(seed)
    found = []
    for contents in by_layer:
        positions = list(range(len(contents.digests)))
        groups = []
        while positions:
            count = generator.randint(1, 3)
            members, positions = positions[:count], positions[count:]
            groups.append(group_of(members, contents.users, generator.randint(0, 1 << 30)))
        found.append(LayerChoices(contents, SIZES, tuple(groups)))
    return found


def asked(layers: Lettered, allowed: int | None, **fields: object) -> PlanTerms:
    one_model = len(layers[0][0]) * len(layers) * SLOT
    known = {"responses": None, "square_norm": 1.0, **fields}
    return PlanTerms(models=MODELS, one_model=one_model, allowed=allowed, **known)  # type: ignore[arg-type]


def planned(layers: Lettered, allowed: int | None, seed: int = 0) -> Plan:
    return make_plan(layer_choices(make_contents(layers), seed), asked(layers, allowed), None)


contents = st.lists(
    st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=3, max_size=3),
    min_size=1,
    max_size=2,
)


def exact_bytes(plan: Plan) -> int:
    """Counted over again: files, each known content once, and maps."""
    files: dict[object, int] = {}
    for number, layer in enumerate(plan.layers):
        for place, slot in enumerate(layer.slots):
            files[slot.digest or (number, place)] = SIZES.slot(slot.forms)
        for place, (_, member) in enumerate(layer.members):
            for fmt in member.residuals:
                files[number, place, fmt] = SIZES.residual(fmt)
    return sum(files.values()) + map_bytes(plan)


def check(plan: Plan, layers: Lettered) -> None:
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
            slot_at = {own.start: slot for slot, own in enumerate(layer.parts)}
            for index, place in enumerate(row):
                slot, found = slot_at[place], formats[Expert(name, index)]
                assert found == (slot, plan.residuals(name, number, index))
                known = layer.slots[slot].digest
                value = digest(number, layers[number][m][index])
                assert not known or name in plan.approximated or known == value


@given(contents, st.integers(0, 1000), st.floats(0.0, 1.2))
@settings(deadline=None, max_examples=30)
def test_the_budget_holds_in_exact_bytes_or_is_refused_with_the_least_there_is(
    layers: Lettered, seed: int, part: float
) -> None:
    choices = layer_choices(make_contents(layers), seed)
    wanted = asked(layers, None)
    most = make_plan(choices, wanted, None).expert_bytes_after
    least = least_bytes(choices, wanted, None)
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
    check(plan, layers)


@given(contents, st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=20)
def test_bytes_of_one_choice_after_another_are_those_of_their_plans(
    layers: Lettered, seed: int, chance: random.Random
) -> None:
    choices = layer_choices(make_contents(layers), seed)
    wanted = asked(layers, None)
    groups = [group.points for layer in choices for group in layer.groups or ()]
    counted = ChosenBytes(choices, wanted.models, None)
    chosen = [points[0].choice for points in groups]
    for _ in range(5):
        assert counted(chosen) == chosen_plan(choices, chosen, wanted, None).expert_bytes_after
        for which in range(len(groups)):
            if chance.random() < 0.4:
                chosen[which] = chance.choice(groups[which]).choice


@given(contents, st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_at_the_corners_of_the_hull_no_choice_is_better(layers: Lettered, seed: int) -> None:
    choices = layer_choices(make_contents(layers), seed)
    frontiers = [group.points for layer in choices for group in layer.groups or ()]
    every: list[Point[object]] = []
    assume(math.prod(map(len, frontiers)) <= 4000)
    for chosen in itertools.product(*frontiers):
        size, error = sum(p.num_bytes for p in chosen), sum(p.error for p in chosen)
        every.append(Point(size, error, None))
    # Maps are a little over what files take, more or less the same for all.
    wanted = asked(layers, None)
    maps = least_bytes(choices, wanted, None) - min(p.num_bytes for p in every)
    for corner in frontier(every):
        plan = planned(layers, corner.num_bytes + maps + 40 * len(MODELS), seed)
        if not plan.approximated:
            continue  # All that is different has a slot of its own, which no group need have.
        assert plan.error <= corner.error + 1e-9
        files = plan.expert_bytes_after - map_bytes(plan)
        assert plan.error >= min(p.error for p in every if p.num_bytes <= files) - 1e-9


@given(contents, st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_more_bytes_never_cost_more_and_enough_of_them_nothing(layers: Lettered, seed: int) -> None:
    choices = layer_choices(make_contents(layers), seed)
    wanted = asked(layers, None)
    least = least_bytes(choices, wanted, None)
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
    same = LayerScan(("0" * 64,), (1.0,), (None,))
    by_layer = contents_by_layer(["x", "y"], {"a": (same, same)})
    choices = [LayerChoices(contents, SIZES, None) for contents in by_layer]
    wanted = PlanTerms(("a",), 2 * SLOT, None, None, 1.0)
    plan = make_plan(choices, wanted, None)
    assert plan.expert_bytes_after == SLOT + expert_map_bytes(((0,), (0,)))
    assert least_bytes(choices, wanted, None) == plan.expert_bytes_after


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_a_positive_number(budget: float) -> None:
    with pytest.raises(Refused, match="positive"):
        budget_bytes(budget, 100, 2)


def test_a_budget_of_as_many_models_as_there_are_asks_for_nothing() -> None:
    assert budget_bytes(None, 100, 2) is None
    assert budget_bytes(2.0, 100, 2) is None
    assert budget_bytes(1.5, 100, 2) == 150
