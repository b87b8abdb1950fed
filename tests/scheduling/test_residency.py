"""Which backbone gets which place, and how long one can wait for it."""

from collections.abc import Callable

import pytest

from serve_app.scheduling.plan import StepPlan
from tests.scheduling.fakes import World

ANSWER = 12
"""Tokens of an answer in the busy worlds; with its prompt in one chunk, as many steps."""


def occupied(*models: str, wait: float = 10.0) -> World:
    """As many places as models, each held by one of them; nothing waits or runs."""
    world = World(num_places=len(models), max_model_wait_s=wait)
    for model in models:
        world.add(1, model, 1)
        world.run()
    return world


def loads(plan: StepPlan) -> list[tuple[str, int]]:
    return [(load.backbone.removeprefix("backbone of "), load.place) for load in plan.loads]


def step(world: World) -> list[tuple[str, int]]:
    begun = loads(world.begin_step())
    world.end_step()
    return begun


def test_the_least_recently_used_idle_resident_makes_room() -> None:
    world = occupied("a", "b")
    world.add(1, "a", 1)
    world.run()
    world.add(1, "c", 1)
    assert step(world) == [("c", 1)]


def test_a_resident_that_is_waited_for_keeps_its_place_until_another_is_overdue() -> None:
    world = occupied("a", wait=5.0)
    world.add(1, "a", 2)
    world.add(1, "b", 1)
    world.add(1, "a", 40)
    begun = [step(world) for _ in range(6)]
    assert begun == [[]] * 6
    assert world.scheduler.residency.draining == ("backbone of a",)


def test_nothing_is_admitted_to_a_place_that_drains() -> None:
    world = occupied("a", wait=2.0)
    running = world.add(1, "a", 6)
    world.step()
    world.add(1, "b", 1)
    for _ in range(3):
        world.step()
    late = world.add(1, "a", 1)
    while running.id not in world.reasons:
        world.step()
        assert late.place is None
    assert step(world) == [("b", 0)]
    assert world.scheduler.residency.wanted == {"backbone of a": world.now - 1.0}
    assert world.scheduler.residency.draining == ()
    world.run()


def test_a_place_stops_draining_when_nobody_wants_it_any_more() -> None:
    world = occupied("a", wait=1.0)
    world.add(1, "a", 9)
    wanting = world.add(1, "b", 1)
    for _ in range(3):
        world.step()
    assert world.scheduler.residency.draining
    world.abort(wanting.id)
    late = world.add(1, "a", 1)
    world.step()
    assert world.scheduler.residency.draining == ()
    assert late.id in world.reasons


def test_one_place_drains_for_each_that_is_overdue() -> None:
    world = occupied("a", "b", "c", wait=1.0)
    for model in "abc":
        world.add(1, model, 9)
    for model in "de":
        world.add(1, model, 1)
    for _ in range(2):
        world.step()
    assert len(world.scheduler.residency.draining) == 2
    world.run()


def test_a_resident_for_which_nothing_waits_drains_before_one_that_is_waited_for() -> None:
    world = occupied("a", "b", wait=3.0)
    world.add(1, "a", 1)
    world.run()
    world.add(1, "a", 9)
    world.add(1, "b", 9)
    world.step()
    for _ in range(8):
        world.add(1, "b", 9)
    world.add(1, "c", 1)
    for _ in range(4):
        world.step()
    assert world.scheduler.residency.draining == ("backbone of a",)
    world.run()


def test_of_two_that_are_waited_for_the_more_served_drains() -> None:
    world = World(num_places=2, max_sequences=2, max_model_wait_s=3.0)
    for model in "ab":
        world.add(1, model, 1)
        world.run()
    world.add(9, "b", 9)
    world.add(1, "a", 9)
    world.step()
    for model in "abc":
        world.add(1, model, 9)
    for _ in range(4):
        world.step()
    assert world.scheduler.residency.draining == ("backbone of b",)
    world.run()


def test_a_loaded_backbone_is_served_before_it_makes_room() -> None:
    """With no patience at all, models take turns, and each turn serves all that waited."""
    world = World(num_places=1, max_model_wait_s=0.0)
    for model in "abab":
        world.add(1, model, 2)
    turns = []
    for _ in range(20):
        turns += [model for model, _ in step(world)]
        world.finish_loads()
    assert len(world.reasons) == 4
    assert turns == ["a", "b"]


def test_a_turn_serves_all_that_waited_when_it_began_and_none_that_came_later() -> None:
    world = World(num_places=1, max_sequences=1, max_model_wait_s=20.0)
    waited = [world.add(1, "a", 4) for _ in range(3)]
    world.add(1, "b", 1)
    for _ in range(25):
        world.step()
    world.finish_loads()
    world.step()
    late = world.add(1, "a", 4)
    begun: list[tuple[str, int]] = []
    while not begun and world.now < 100:
        begun = step(world)
    assert begun == [("b", 0)]
    assert [s.id in world.reasons for s in [*waited, late]] == [True, True, True, False]
    assert world.now - 25 < 20
    world.run()


def test_a_long_queue_does_not_hold_its_place_for_longer_than_the_longest_wait() -> None:
    world = World(num_places=1, max_sequences=1, max_model_wait_s=6.0)
    for model in "a" * 20 + "b":
        world.add(1, model, 2)
    begun = {}
    for _ in range(60):
        begun.update({model: world.now for model, _ in loads(world.begin_step())})
        world.end_step()
        world.finish_loads()
        if "b" in begun:
            break
    assert begun["b"] - begun["a"] <= 1 + 6 + 2
    world.run()


def test_what_arrives_is_admitted_at_once_where_nothing_else_runs() -> None:
    world = World()
    first, second = world.add(2, "a"), world.add(2, "a")
    world.step()
    assert first.place is None
    world.let_in()
    plan = world.begin_step()
    assert {chunk.sequence for chunk in plan.chunks} == {first.id, second.id}
    world.end_step()
    world.run()


def test_what_arrives_delays_nobody_who_runs_or_could() -> None:
    world = occupied("a", "b")
    world.add(1, "a", 6)
    world.step()
    early = world.add(1, "c", 1)
    assert step(world) == [("c", 1)]
    world.let_in()
    for _ in range(4):
        assert early.place is None
        world.step()
    world.add(1, "a", 2)
    world.step()
    assert early.place is None
    world.step()
    world.step()
    assert world.reasons[early.id] == "length"
    assert not world.places.is_resident(early.backbone)
    world.run()


def test_others_are_not_kept_waiting_by_what_was_admitted_early() -> None:
    world = occupied("a", "b")
    early = world.add(1, "c", 9)
    world.step()
    world.let_in()
    world.step()
    late = world.add(1, "b", 1)
    world.step()
    assert late.id in world.reasons
    assert early.place is not None
    world.run()


def test_a_load_that_fails_takes_what_was_admitted_early_with_it() -> None:
    world = occupied("a", "b")
    early, waiting = world.add(1, "c", 9), world.add(20, "c", 9)
    world.step()
    world.let_in()
    world.begin_step()
    late = world.add(1, "b", 2)
    assert world.fail_load() == [early.id, waiting.id]
    assert world.end_step() == []
    assert world.places.empty() == 0
    world.run()
    assert set(world.reasons) >= {late.id}
    again = world.add(1, "c", 1)
    world.run()
    assert again.id in world.reasons


def test_the_end_of_a_load_that_is_none_changes_nothing() -> None:
    world = occupied("a")
    running = world.add(1, "a", 3)
    world.step()
    with pytest.raises(ValueError, match="resident, not loading"):
        world.scheduler.load_failed(running.backbone)
    assert running.place == 0
    world.run()


def test_a_place_that_nobody_wants_can_be_filled_ahead_of_all_requests() -> None:
    world = World(num_places=2)
    assert world.prefetch("a")
    assert not world.prefetch("a"), "it has a place"
    world.add(1, "b", 1)
    assert not world.prefetch("c"), "the place is wanted"
    world.run()
    assert not world.prefetch("c"), "no place is empty"
    world.add(1, "a", 1)
    assert step(world) == []
    assert (world.scheduler.num_hits, world.scheduler.num_misses) == (1, 1)
    world.run()


def test_what_was_fetched_ahead_makes_room_for_what_is_wanted() -> None:
    world = World(num_places=1)
    assert world.prefetch("a")
    wanting = world.add(1, "b", 1)
    assert step(world) == []
    world.finish_loads()
    assert step(world) == [("b", 0)]
    world.run()
    assert wanting.id in world.reasons


def test_the_check_finds_what_is_wanted_and_not_noted() -> None:
    world = World()
    sequence = world.add(1, "a")
    world.scheduler.residency._wanted.clear()
    with pytest.raises(AssertionError, match="wanted"):
        world.scheduler.check()
    world.scheduler.residency.want(sequence.backbone, 0.0)
    world.run()


def busy(world: World, models: str, until: Callable[[], bool], *, patience: int = 500) -> None:
    """Keep requests waiting for each of these models while stepping; loads take one step."""
    for _ in range(patience):
        if until():
            return
        waiting = world.scheduler.num_waiting_by_model()
        for model in models:
            if waiting.get(("r1", model), 0) < 3:
                world.add(2, model, ANSWER)
        world.step()
        world.finish_loads()
    raise AssertionError(f"still waiting after {patience} steps")


@pytest.mark.parametrize("num_wanting", [1, 2, 3])
@pytest.mark.parametrize("wait", [0.0, 5.0, 30.0])
def test_nobody_waits_longer_than_the_wait_and_one_drain(num_wanting: int, wait: float) -> None:
    """The stated bound: no more backbones are wanted than there are places, all busy."""
    world = World(num_places=3, max_model_wait_s=wait)
    busy(world, "abc", lambda: world.now >= 60)
    assert set(world.places.resident) == {f"backbone of {m}" for m in "abc"}
    start = world.now
    wanting = [world.add(2, model, 1) for model in "xyz"[:num_wanting]]
    busy(world, "abc", lambda: all(world.places.place_of(s.backbone) is not None for s in wanting))
    assert world.now - start - 1 <= wait + ANSWER


@pytest.mark.parametrize("num_places", [1, 2])
def test_with_more_models_than_places_turns_go_round(num_places: int) -> None:
    """Each wait is at most that for the models ahead: a load, the wait and a drain a turn."""
    world = World(num_places=num_places, max_model_wait_s=8.0)
    models = "abcdef"
    since: dict[str, float] = {}
    longest = 0.0
    served: set[str] = set()

    def watch() -> bool:
        nonlocal longest
        wanted = world.scheduler.residency.wanted
        for backbone in set(since) - set(wanted):
            longest = max(longest, world.now - since.pop(backbone))
            served.add(backbone)
        since.update(wanted)
        return world.now >= 600

    busy(world, models, watch, patience=700)
    ahead = len(models) // num_places
    assert len(served) == len(models)
    assert longest <= 8 + ANSWER + ahead * (1 + 8 + ANSWER)
    world.run()
