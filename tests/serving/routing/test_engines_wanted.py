"""How many engines are wanted, by what is asked of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.serving.routing.engines_wanted import ReplicaDemand, demand, policy, wanted


def asked(load: float, *models: str, places: float = 4) -> ReplicaDemand:
    return ReplicaDemand(load, places, frozenset(models))


def test_idle_replicas_are_one() -> None:
    assert wanted([asked(0), asked(0)]) == 1
    assert wanted([]) == 1


@pytest.mark.parametrize(("loads", "replicas"), [((0.7,), 1), ((0.8,), 2), ((1.5, 1.5), 4)])
def test_a_replica_is_wanted_for_three_quarters_of_what_it_can_run(
    loads: tuple[float, ...], replicas: int
) -> None:
    assert wanted([asked(load, "a") for load in loads]) == replicas


def test_models_that_have_no_place_together_want_more_replicas() -> None:
    assert wanted([asked(0.1, "a", "b", "c", places=2)]) == 2
    assert wanted([asked(0.1, "a", "b", places=2), asked(0.1, "c", places=2)]) == 2


def test_a_model_that_is_asked_of_two_replicas_counts_once() -> None:
    assert wanted([asked(0.1, "a", "b", places=2), asked(0.1, "a", "b", places=2)]) == 1


def test_choices_that_wait_for_room_are_load() -> None:
    full = demand({"a": 16}, {"a": 16}, ["a"], places=2, max_running=16)
    assert full.load == 2.0


def test_where_memory_is_short_room_is_what_runs() -> None:
    long_ones = demand({"a": 10}, {"a": 10}, ["a"], places=2, max_running=64)
    assert long_ones.load == 2.0


def test_a_choice_that_has_just_come_is_little_load() -> None:
    assert demand({}, {"a": 1}, ["a"], places=2, max_running=64).load == 1 / 8


def test_choices_that_wait_for_a_place_are_models_and_no_load() -> None:
    found = demand({"a": 2}, {"b": 9}, ["a"], places=1, max_running=8)
    assert found == ReplicaDemand(0.25, 1.0, frozenset({"a", "b"}))


def test_models_with_equal_backbones_share_a_place() -> None:
    found = demand({"a": 1, "b": 1, "c": 1}, {}, ["a", "b", "c"], places=1, max_running=8)
    assert wanted([found]) == 1


def context(running: list[str], target: int, told: dict[str, ReplicaDemand]) -> Any:
    """What Serve's controller hands over: figures by name, then by replica."""
    figures: dict[str, dict[str, float]] = {}
    for replica, one in told.items():
        for name, value in one.told().items():
            figures.setdefault(name, {})[replica] = value
    return SimpleNamespace(
        running_replicas=running, target_num_replicas=target, aggregated_metrics=figures
    )


def test_serve_gets_the_number_from_what_all_have_told() -> None:
    told = {"r1": asked(1.4, "a"), "r2": asked(0.3, "b")}
    assert policy(context(["r1", "r2"], 2, told)) == (3, {})


def test_a_replica_that_has_gone_no_longer_counts() -> None:
    told = {"r1": asked(0.1, "a"), "gone": asked(9.0, "b", places=1)}
    assert policy(context(["r1"], 3, told)) == (1, {})


def test_nothing_changes_before_all_replicas_have_told() -> None:
    assert policy(context(["r1", "r2"], 2, {"r1": asked(3.0, "a")})) == (2, {})
    assert policy(context([], 1, {})) == (1, {})
    nothing = SimpleNamespace(running_replicas=["r1"], target_num_replicas=2)
    nothing.aggregated_metrics = None
    assert policy(nothing) == (2, {})
