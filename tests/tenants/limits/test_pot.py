"""One limit and its leases: whatever ingresses do, no more is used than there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.tenants.limits.lease import LASTS_S, Ask
from serve_app.tenants.limits.pot import Pot


class Holder:
    """One ingress: what it was granted, and what it has used."""

    def __init__(self, pot: Pot, name: str, limit: int) -> None:
        self.pot = pot
        self.name = name
        self.limit = limit
        self.granted = self.used = 0.0
        self.left: float | None = None
        self.told_at = 0.0

    def held(self, now: float) -> float:
        """What may be used: nothing once the lease has ended."""
        if now - self.told_at > LASTS_S:
            self.granted = min(self.granted, self.used)
        return self.granted - self.used

    def settle(self, need: float, want: float, now: float) -> float:
        """-> what is held then."""
        self.held(now)
        self.told_at = now
        ask = Ask(self.limit, self.granted, self.used, need, want, self.left)
        lease = self.pot.settle(self.name, ask, now)
        self.granted, self.left = lease.granted, lease.left
        return self.granted - self.used


def holders(limit: int, num: int, *, grows: bool = True) -> list[Holder]:
    pot = Pot(limit, 0.0, grows=grows)
    return [Holder(pot, str(number), limit) for number in range(num)]


def test_what_one_holds_another_cannot_have_until_it_is_handed_back() -> None:
    first, second = holders(10, 2)
    assert first.settle(2, 8, 0.0) == 8
    assert second.settle(3, 3, 0.0) == 0
    assert second.settle(2, 3, 0.0) == 2
    first.used = 1
    assert first.settle(0, 0, 0.0) == 0
    assert second.settle(2, 20, 0.0) == 9


def test_a_need_is_met_whole_or_not_at_all() -> None:
    (only,) = holders(60, 1)
    only.used = only.settle(50, 50, 0.0)
    assert only.settle(11, 20, 0.0) == 0
    assert only.settle(11, 20, 1.0) == 11


def test_an_overdraft_is_paid_before_anything_else_is_granted() -> None:
    (only,) = holders(60, 1)
    only.used = 90.0
    assert only.settle(1, 5, 0.0) == 0
    assert only.settle(1, 5, 30.0) == 0
    assert only.settle(1, 5, 31.0) == 1


def test_an_answer_that_is_lost_changes_nothing() -> None:
    (only,) = holders(60, 1)
    only.used = only.settle(20, 30, 0.0)
    only.pot.settle(only.name, Ask(60, 30, 30, 10, 20, 30.0), 0.0)
    assert only.settle(10, 10, 0.0) == 10
    assert only.left == 20


def test_ingresses_that_take_up_another_limit_at_different_moments_get_no_second_pot() -> None:
    first, second = holders(60, 2)
    first.used = first.settle(60, 60, 0.0)
    for _ in range(10):
        first.limit = 90
        first.used += first.settle(0, 100, 0.0)
        second.used += second.settle(0, 100, 0.0)
    assert first.used + second.used == 90


def test_what_was_open_in_an_ingress_that_is_silent_comes_back() -> None:
    gone, left = holders(4, 2, grows=False)
    gone.used = gone.settle(3, 3, 0.0)
    assert left.settle(2, 2, LASTS_S) == 0
    assert left.settle(4, 4, LASTS_S + 1) == 4
    left.settle(1, 1, LASTS_S + 1)
    assert gone.settle(0, 0, LASTS_S + 2) == 0  # it was only slow, and holds its three still
    left.settle(0, 0, LASTS_S + 2)
    assert left.settle(2, 2, LASTS_S + 2) == 0
    assert left.settle(1, 1, LASTS_S + 2) == 1


def test_a_pot_that_was_lost_is_no_fuller_when_it_comes_again() -> None:
    first, second = holders(60, 2)
    first.used = first.settle(40, 45, 0.0)
    second.used = second.settle(10, 10, 0.0)
    again = Pot(60, 100.0, grows=True)
    for one in (first, second):
        one.pot = again
    assert second.settle(6, 6, 100.0) == 0
    assert second.settle(5, 5, 100.0) == 5
    assert first.settle(6, 6, 100.0) == 0


@settings(deadline=None)
@given(
    limit=st.integers(1, 1000),
    asked=st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 2), st.integers(0, 400), st.integers(0, 100)),
        max_size=60,
    ),
)
def test_in_no_span_of_time_goes_more_than_a_full_pot_and_what_grows(
    limit: int, asked: list[tuple[float, int, int, int]]
) -> None:
    ingresses = holders(limit, 3)
    now, went = 0.0, list[tuple[float, float]]()
    for pause, number, amount, spare in asked:
        now += pause
        ingress = ingresses[number]
        if ingress.held(now) < amount:
            ingress.settle(amount, amount + spare, now)
        if ingress.held(now) >= amount:
            ingress.used += amount
            went.append((now, amount))
    for i, (start, _) in enumerate(went):
        for j in range(i, len(went)):
            span = went[j][0] - start
            total = sum(amount for _, amount in went[i : j + 1])
            assert total <= limit * (1 + span / 60) + 1e-6


@settings(deadline=None)
@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 5)), max_size=80),
)
def test_never_is_more_open_than_may_be(limit: int, steps: list[tuple[int, bool, int]]) -> None:
    ingresses = holders(limit, 3, grows=False)
    for number, opens, spare in steps:
        ingress = ingresses[number]
        if opens:
            if ingress.granted - ingress.used < 1:
                ingress.settle(1, 1 + spare, 0.0)
            ingress.used += 1 if ingress.granted - ingress.used >= 1 else 0
        elif ingress.used:
            ingress.used -= 1
            ingress.settle(0, spare, 0.0)
        assert sum(one.used for one in ingresses) <= limit
    for ingress in ingresses:
        ingress.used = 0
        ingress.settle(0, 0, 0.0)
    assert ingresses[0].settle(limit, limit, 0.0) == pytest.approx(limit)
