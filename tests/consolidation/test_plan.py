import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.compare import Matrix, Merge, merge_tree
from consolidation.errors import Refused
from consolidation.plan import Expert, Plan, Pool, budget_bytes, make_plan, pools
from consolidation.release import expert_map_bytes
from consolidation.scan import LayerScan

SLOT = 100
MODELS = ("a", "b", "c")


def gram_of(points: Matrix) -> Matrix:
    centred = points - points.mean(0)
    return np.asarray(centred @ centred.T)


def digest(layer: int, value: int) -> str:
    return f"{layer:032x}{value:032x}"


def make_pools(layers: Sequence[Sequence[Sequence[int]]]) -> list[Pool]:
    """layers[layer][model][index] is the content of an expert, as a number."""
    scans = {
        name: tuple(
            LayerScan(tuple(digest(number, v) for v in layer[m]), SLOT, (1.0,) * len(layer[m]))
            for number, layer in enumerate(layers)
        )
        for m, name in enumerate(MODELS)
    }
    return pools([f"layer{i}" for i in range(len(layers))], scans)


contents = st.lists(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3),
    min_size=1,
    max_size=3,
)


def planned(layers: list[list[list[int]]], allowed: int | None, seed: int = 0) -> Plan:
    generator = np.random.default_rng(seed)
    layer_pools = make_pools(layers)
    trees = []
    for pool in layer_pools:
        points = generator.normal(size=(len(pool.digests), 4))
        trees.append(merge_tree(gram_of(points), pool.counts))
    return make_plan(
        layer_pools,
        trees,
        models=MODELS,
        slot_bytes=SLOT,
        one_model=3 * len(layers) * SLOT,
        square_norm=1.0,
        allowed=allowed,
    )


@given(contents, st.floats(0.3, 3.5), st.integers(0, 5))
@settings(deadline=None)
def test_the_budget_holds_or_is_refused_with_the_least_possible(
    layers: list[list[list[int]]], budget: float, seed: int
) -> None:
    one_model = 3 * len(layers) * SLOT
    allowed = budget_bytes(budget, one_model, len(MODELS))
    least = len(layers) * SLOT + 3 * expert_map_bytes([[0, 0, 0]] * len(layers))
    if allowed is not None and allowed < least:
        with pytest.raises(Refused, match=f"needs {least} bytes"):
            planned(layers, allowed, seed)
        return
    plan = planned(layers, allowed, seed)
    if allowed is None:
        assert budget >= len(MODELS)
        assert plan.square_error == 0
        assert not plan.merged_models
    else:
        assert plan.expert_bytes_after <= allowed
    for m, name in enumerate(MODELS):
        for layer, row in enumerate(plan.expert_map[name]):
            for index, slot in enumerate(row):
                assert Expert(name, index) in plan.layers[layer].slots[slot].users
                held = plan.layers[layer].slots[slot].digest
                assert held in (None, digest(layer, layers[layer][m][index]))


@given(contents, st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_less_room_never_costs_less_and_never_more_than_is_needed(
    layers: list[list[list[int]]], seed: int
) -> None:
    everything = planned(layers, None, seed)
    errors, bytes_after = [], []
    for allowed in range(400 * len(layers), 1000 * len(layers), 90 * len(layers)):
        plan = planned(layers, allowed, seed)
        assert plan == planned(layers, allowed, seed)
        errors.append(plan.square_error)
        bytes_after.append(plan.expert_bytes_after)
        if allowed >= SLOT * everything.num_slots + 60 * len(layers):
            assert plan.square_error == 0
    assert errors == sorted(errors, reverse=True)
    assert bytes_after == sorted(bytes_after)


def test_identical_experts_share_a_slot_without_being_asked() -> None:
    plan = planned([[[1, 2, 3], [1, 2, 4], [1, 1, 1]]], None)
    assert plan.expert_map == {"a": ((0, 1, 2),), "b": ((0, 1, 3),), "c": ((0, 0, 0),)}
    assert plan.num_slots == 4
    assert plan.num_experts == 9
    maps = sum(expert_map_bytes(rows) for rows in plan.expert_map.values())
    assert plan.expert_bytes_after == 4 * SLOT + maps


def test_the_budget_is_spent_where_it_costs_least() -> None:
    layer_pools = make_pools([[[1, 2, 3], [1, 2, 3], [1, 2, 3]]] * 2)
    dear = [Merge(0, 1, 5.0), Merge(2, 3, 9.0)]
    cheap = [Merge(1, 2, 1.0), Merge(0, 3, 2.0)]
    plan = make_plan(
        layer_pools,
        [dear, cheap],
        models=MODELS,
        slot_bytes=SLOT,
        one_model=600,
        square_norm=12.0,
        allowed=400 + 60,
    )
    assert [len(layer.slots) for layer in plan.layers] == [3, 1]
    assert plan.square_error == 3.0
    assert plan.relative_error == 0.5


def square_error(points: Matrix, counts: Sequence[int], parts: Sequence[Sequence[int]]) -> float:
    total = 0.0
    for part in parts:
        weights = np.array([counts[i] for i in part], dtype=float)
        chosen = points[list(part)]
        mean = (weights[:, None] * chosen).sum(0) / weights.sum()
        total += float((weights[:, None] * (chosen - mean) ** 2).sum())
    return total


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(deadline=None)
def test_costs_are_increases_of_the_sum_of_squared_errors(seed: int, num: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(num, 3))
    counts = [int(n) for n in generator.integers(1, 4, size=num)]
    parts: dict[int, list[int]] = {i: [i] for i in range(num)}
    before = 0.0
    tree = merge_tree(gram_of(points), counts)
    assert len(tree) == num - 1
    for position, merge in enumerate(tree):
        # Greedy: no other pair of clusters would have cost less.
        after = {
            pair: square_error(
                points,
                counts,
                [p for k, p in parts.items() if k not in pair] + [parts[pair[0]] + parts[pair[1]]],
            )
            for pair in itertools.combinations(sorted(parts), 2)
        }
        parts[num + position] = parts.pop(merge.one) + parts.pop(merge.other)
        now = square_error(points, counts, list(parts.values()))
        assert math.isclose(now, min(after.values()), rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(now - before, merge.cost, rel_tol=1e-6, abs_tol=1e-9)
        before = now


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4, unique=True))
@settings(deadline=None)
def test_well_separated_pairs_are_merged_as_the_best_partition_would(
    offsets: list[float],
) -> None:
    points = np.array([[offsets[0]], [100 + offsets[1]], [offsets[2]], [100 + offsets[3]]])
    tree = merge_tree(gram_of(points), [1, 1, 1, 1])
    assert {(m.one, m.other) for m in tree[:2]} == {(0, 2), (1, 3)}


def test_experts_without_difference_in_value_merge_for_nothing() -> None:
    points = np.array([[0.0], [0.0], [1.0]])  # -0.0 and 0.0, say: other bytes, the same weights
    tree = merge_tree(gram_of(points), [2, 1, 1])
    assert (tree[0].one, tree[0].other) == (0, 1)
    assert tree[0].cost == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_a_positive_number(budget: float) -> None:
    with pytest.raises(Refused, match="positive"):
        budget_bytes(budget, 100, 2)
