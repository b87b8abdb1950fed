"""Backbones that an operator keeps or asks for, and the least time that one has its place."""

import pytest

from serve_app.scheduling.errors import TooManyKept
from tests.scheduling.fakes import World
from tests.scheduling.test_residency import ANSWER, busy, occupied, step


def _backbone(model: str) -> str:
    return f"backbone of {model}"


def _keep(world: World, *models: str) -> None:
    world.scheduler.residency.keep({_backbone(model) for model in models})


def _ask(world: World, model: str) -> None:
    world.runner.backbones["r1", model] = _backbone(model)
    world.scheduler.residency.ask(_backbone(model), world.now)


def test_a_kept_backbone_is_not_evicted_though_it_is_idle_longest() -> None:
    world = occupied("a", "b")
    _keep(world, "a")
    world.add(1, "c", 1)
    assert step(world) == [("c", 1)]


def test_a_kept_backbone_does_not_drain_for_those_that_are_overdue() -> None:
    world = World(num_places=2, max_model_wait_s=3.0)
    busy(world, "ab", lambda: world.now >= 20)
    _keep(world, "a")
    wanting = world.add(2, "c", 1)
    place = world.places.place_of(_backbone("a"))
    busy(world, "ab", lambda: wanting.id in world.reasons)
    assert world.places.place_of(_backbone("a")) == place
    busy(world, "abc", lambda: world.now >= 200)
    assert world.places.place_of(_backbone("a")) == place
    _keep(world)
    busy(world, "abc", lambda: world.places.place_of(_backbone("a")) != place)


def test_what_drains_when_it_is_kept_drains_no_longer() -> None:
    world = occupied("a", "b", wait=1.0)
    for model in "ab":
        world.add(1, model, 20)
    world.add(1, "c", 1)
    for _ in range(3):
        world.step()
    [drains] = world.scheduler.residency.draining
    world.scheduler.residency.keep({drains})
    world.step()
    assert drains not in world.scheduler.residency.draining
    assert len(world.scheduler.residency.draining) == 1, "the other one drains instead"
    world.run()


def test_all_places_are_never_kept() -> None:
    world = occupied("a", "b")
    _keep(world, "a")
    with pytest.raises(TooManyKept, match="2 backbones cannot be kept in 2 places: at most 1"):
        _keep(world, "a", "b")
    assert world.scheduler.residency.kept == {_backbone("a")}
    with pytest.raises(TooManyKept, match="at most 0"):
        _keep(occupied("a"), "a")


def test_what_is_asked_for_is_loaded_though_nothing_waits_for_it() -> None:
    world = occupied("a")
    _ask(world, "b")
    world.scheduler.check()
    assert step(world) == [("b", 0)]
    world.finish_loads()
    assert world.places.is_resident(_backbone("b"))
    assert world.scheduler.residency.num_switches == 1


def test_what_is_asked_for_stays_wanted_when_a_request_for_it_is_given_up() -> None:
    world = occupied("a", wait=5.0)
    world.add(1, "a", 9)
    world.step()
    _ask(world, "b")
    wanting = world.add(1, "b", 1)
    world.abort(wanting.id)
    assert _backbone("b") in world.scheduler.residency.wanted
    assert world.scheduler.residency.forget(_backbone("b")), "its release is gone"
    assert not world.scheduler.residency.wanted
    world.run()


def test_what_is_there_already_is_not_loaded_again() -> None:
    world = occupied("a")
    _ask(world, "a")
    assert step(world) == []


@pytest.mark.parametrize("least", [0.0, 25.0])
def test_a_place_does_not_drain_before_its_least_time(least: float) -> None:
    world = World(num_places=1, max_model_wait_s=2.0, min_residency_s=least)
    tenures: list[float] = []
    since = {"": 0.0}

    def watch() -> bool:
        [resident] = world.places.resident or [""]
        if resident not in since:
            tenures.append(world.now - since.popitem()[1])
            since[resident] = world.now
        return world.now >= 300

    busy(world, "ab", watch)
    assert len(tenures) > 5
    assert min(tenures[2:]) >= least
    assert max(tenures[2:]) <= max(2.0, least) + ANSWER + 8
