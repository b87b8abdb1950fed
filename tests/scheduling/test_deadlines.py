"""Sequences whose time is up: waiting or running, they end, and nothing of them is computed."""

from random import Random

import pytest

from serve_app.scheduling.deadlines import Deadlines
from serve_app.scheduling.sequence import Sequence
from tests.scheduling.fakes import World


def test_what_missed_its_deadline_while_waiting_is_never_computed() -> None:
    world = World(max_sequences=1)
    running = world.add(3, max_tokens=9)
    world.step()
    world.finish_loads()
    late = world.add(3, max_tokens=2, deadline=world.now + 3)
    patient = world.add(3, max_tokens=2, deadline=world.now + 99)
    computed = set()
    while world.scheduler.has_work:
        expired = world.expire()
        computed |= {chunk.sequence for chunk in world.begin_step().chunks}
        world.end_step()
        if expired:
            assert expired == [late.id]
            assert world.now > 3
    assert computed == {running.id, patient.id}
    assert len(world.generated[patient.id]) == 2


@pytest.mark.parametrize("ahead", [False, True])
def test_what_misses_its_deadline_while_running_ends_and_frees_what_it_holds(ahead: bool) -> None:
    world = World(ahead=ahead)
    late = world.add(5, max_tokens=50, deadline=6.0)
    other = world.add(5, max_tokens=20)
    while world.now < 6.0:
        assert world.expire() == []
        world.step()
        world.finish_loads()
    assert world.expire() == [late.id]
    assert world.generated[late.id]
    assert world.scheduler.num_running == 1
    world.run()
    assert world.reasons == {other.id: "length"}


def test_what_has_ended_before_its_deadline_does_not_miss_it() -> None:
    world = World()
    world.add(2, max_tokens=1, deadline=1e6)
    aborted = world.add(2, max_tokens=9, deadline=1e6)
    world.abort(aborted.id)
    world.run()
    world.now = 2e6
    assert world.expire() == []


def test_they_are_found_in_their_order_whatever_came_and_went() -> None:
    random, deadlines = Random(3), Deadlines()
    live: dict[int, Sequence] = {}
    now = 0.0
    for number in range(3000):
        sequence = Sequence("s", ("r", "m"), "b", (1,), 1, deadline=now + random.random() * 20)
        sequence.number = number
        live[number] = sequence
        deadlines.add(sequence)
        while len(live) > 50:
            gone = random.choice(list(live))
            deadlines.drop(live.pop(gone))
        now += random.random() * 0.1
        found = deadlines.missed(now)
        expected = [s for s in live.values() if s.deadline is not None and s.deadline <= now]
        assert found == sorted(expected, key=lambda s: s.deadline or 0.0)
        for missed in found:
            deadlines.drop(live.pop(missed.number))
        assert len(deadlines._heap) <= 2 * max(1, len(live))
