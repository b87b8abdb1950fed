"""One replica at a time stages or drains, and a dead one does not keep the others from it."""

import pytest

from serve_app.serving.routing.turn import HELD_S, Turn


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_at_a_time_has_the_turn(clock: Clock) -> None:
    turn = Turn(clock)
    assert turn.take("r1")
    assert not turn.take("r2")
    turn.end("r1")
    assert turn.take("r2")


def test_who_goes_on_keeps_it(clock: Clock) -> None:
    turn = Turn(clock)
    turn.take("r1")
    for _ in range(5):
        clock.now += HELD_S - 1
        assert turn.take("r1")
        assert not turn.take("r2")


def test_who_is_not_heard_of_loses_it(clock: Clock) -> None:
    turn = Turn(clock)
    turn.take("r1")
    clock.now += HELD_S
    assert turn.take("r2")
    assert not turn.take("r1")


def test_who_has_not_got_it_cannot_end_it(clock: Clock) -> None:
    turn = Turn(clock)
    turn.take("r1")
    turn.end("r2")
    assert not turn.take("r2")
