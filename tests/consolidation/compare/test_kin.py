"""Neurons in another order, and experts of one origin."""

from collections.abc import Sequence
from typing import get_args

import pytest
import torch

from consolidation.arithmetic import alignment
from consolidation.arithmetic.alignment import fingerprint, match, reorder, reorder_metric
from consolidation.arithmetic.weights import Weights
from consolidation.compare.kin import Kin, find_kin, related
from representation.layout import Layout
from tests.consolidation.metrics import correlated_metric, random_matrix

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
NEURONS, HIDDEN = 40, 24


def expert(layout: Layout, seed: int, *, biases: bool = True) -> Weights:
    first = "up_proj" if layout == "single" else "gate_up_proj"
    rows = NEURONS if layout == "single" else 2 * NEURONS
    return Weights(
        {
            first: random_matrix(rows, HIDDEN, seed=seed),
            "down_proj": random_matrix(HIDDEN, NEURONS, seed=seed + 1000),
        },
        {
            f"{first}_bias": random_matrix(rows, seed=seed + 2000),
            "down_proj_bias": random_matrix(HIDDEN, seed=seed + 3000),
        }
        if biases
        else {},
    )


def output(weights: Weights, layout: Layout, x: torch.Tensor) -> torch.Tensor:
    """What the expert computes. x: (n, H)"""
    (first,) = [name for name in weights.matrices if name != "down_proj"]
    hidden = x @ weights.matrices[first].T + weights.vectors.get(f"{first}_bias", 0.0)
    if layout == "halves":
        gate, up = hidden.chunk(2, dim=1)
        hidden = torch.nn.functional.silu(gate) * up
    elif layout == "pairs":
        hidden = torch.nn.functional.silu(hidden[:, ::2]) * hidden[:, 1::2]
    else:
        hidden = hidden.relu()
    return hidden @ weights.matrices["down_proj"].T + weights.vectors.get("down_proj_bias", 0.0)


def noisy(weights: Weights, size: float, seed: int = 7) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def moved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: tensor + torch.randn(tensor.shape, generator=generator) * size
            for name, tensor in tensors.items()
        }

    return Weights(moved(dict(weights.matrices)), moved(dict(weights.vectors)))


def some_order(seed: int = 3) -> torch.Tensor:
    return torch.randperm(NEURONS, generator=torch.Generator().manual_seed(seed))


def assert_equal(one: Weights, other: Weights) -> None:
    assert one.equals(other)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_expert_computes_the_same_with_its_neurons_in_another_order(
    layout: Layout, biases: bool
) -> None:
    weights = expert(layout, 0, biases=biases)
    moved = reorder(weights, some_order(), layout)
    x = random_matrix(5, HIDDEN, seed=9)
    assert not weights.equals(moved)
    assert torch.allclose(output(weights, layout, x), output(moved, layout, x), atol=1e-3)
    assert torch.allclose(fingerprint(weights, layout), fingerprint(moved, layout), rtol=1e-5)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [0.0, 0.05, 0.3])
def test_the_order_of_a_permuted_copy_is_found(layout: Layout, biases: bool, size: float) -> None:
    weights = expert(layout, 0, biases=biases)
    order = some_order()
    moved = noisy(reorder(weights, order, layout), size)
    found = match(weights, moved, layout)
    assert found is not None
    assert torch.equal(found, order.argsort())
    back = reorder(moved, found, layout)
    assert related(weights, back)
    if size == 0:
        assert_equal(back, weights)


def test_neurons_that_nothing_chooses_are_assigned_as_well_as_can_be() -> None:
    weights = expert("halves", 0)
    moved = noisy(reorder(weights, some_order(), "halves"), 1.5)
    found = match(weights, moved, "halves")
    assert found is not None
    assert sorted(found.tolist()) == list(range(NEURONS))


def test_too_many_neurons_without_a_match_are_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "MAX_ASSIGNED", 2)
    assert match(expert("halves", 0), expert("halves", 1), "halves") is None
    same = reorder(expert("halves", 0), some_order(), "halves")
    assert match(expert("halves", 0), same, "halves") is not None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_metrics_go_along_with_neurons(layout: Layout) -> None:
    weights, order = expert(layout, 0), some_order()
    moved = reorder(weights, order, layout)
    for name, matrix in weights.matrices.items():
        metric = correlated_metric(*matrix.shape)
        cost = reorder_metric(name, metric, order, layout).cost(moved.matrices[name])
        assert cost == pytest.approx(metric.cost(matrix), rel=1e-3)


def kin_of(
    experts: Sequence[Weights],
    homes: Sequence[int],
    layout: Layout | None = "halves",
    locked: Sequence[bool] | None = None,
) -> list[Kin]:
    return find_kin(homes, locked or [False] * len(experts), experts.__getitem__, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_in_another_place_and_order_are_kin_and_strangers_are_not(layout: Layout) -> None:
    one, other = expert(layout, 0), expert(layout, 1)
    copy = reorder(noisy(one, 0.02), some_order(), layout)
    near = noisy(copy, 0.02, seed=8)
    moved = noisy(other, 0.02)
    stranger = expert(layout, 2)
    found = kin_of([one, other, copy, near, stranger, moved], [0, 1, 2, 2, 3, 2], layout)
    assert found == [Kin((0, 2, 3), {2: 2, 3: 2}), Kin((1, 5), {}), Kin((4,), {})]


def test_without_a_layout_neurons_are_taken_as_they_lie() -> None:
    one = expert("halves", 0)
    moved = reorder(one, some_order(), "halves")
    found = kin_of([one, moved, noisy(one, 0.1)], [0, 1, 0], None)
    assert found == [Kin((0, 2), {}), Kin((1,), {})]


def test_others_are_put_in_the_order_of_what_must_stay_as_it_is() -> None:
    one = expert("halves", 0)
    moved = reorder(one, some_order(), "halves")
    assert kin_of([one, moved], [0, 1], locked=[False, True]) == [Kin((1, 0), {0: 0})]
    assert kin_of([one, moved], [0, 1], locked=[True, False]) == [Kin((0, 1), {1: 1})]
    assert kin_of([one, moved], [0, 1], locked=[True, True]) == [Kin((0,), {}), Kin((1,), {})]
    assert kin_of([one, one], [0, 1], locked=[True, True]) == [Kin((0, 1), {})]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strangers_are_told_by_neurons_that_choose_each_other(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(cost: object) -> None:
        raise AssertionError("strangers are not to be assigned to each other")

    one, other = expert(layout, 0), expert(layout, 1)
    moved = reorder(noisy(one, 0.5), some_order(), layout)
    assert match(one, moved, layout) is not None
    monkeypatch.setattr(alignment, "linear_sum_assignment", never)
    assert match(one, other, layout) is None


def test_neurons_are_not_assigned_where_it_would_take_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = expert("single", 0)
    moved = reorder(noisy(one, 0.9), some_order(), "single")
    assert match(one, moved, "single") is not None
    monkeypatch.setattr(alignment, "MAX_ASSIGNED", 0)
    assert match(one, moved, "single") is None


def test_a_match_that_cannot_be_made_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "MAX_ASSIGNED", 0)
    strangers = [expert("halves", 0), expert("halves", 1)]
    assert kin_of(strangers, [0, 1]) == [Kin((0,), {}), Kin((1,), {})]
