"""Limits of one tenant at one ingress: what goes, what must wait, what is given back."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from serve_app.tenants.keys_file import Limits
from serve_app.tenants.limits.allowance import (
    Allowance,
    Left,
    LimitsUnknown,
    OverBudget,
    OverLimit,
    Use,
)
from serve_app.tenants.limits.lease_ledger import LeaseLedger

T = TypeVar("T")
MONTH, MONTH_LEFT_S = "2026-11", 5000.0


class Own:
    """An allowance at the only ingress of a ledger, which is asked when too little is held."""

    def __init__(self, ledger: LeaseLedger, **limits: int) -> None:
        self.ledger = ledger
        self.allowance = Allowance("acme", Limits(**limits), lambda: MONTH_LEFT_S)

    def begin(self, now: float) -> Use:
        return self._leased(self.allowance.begin, now)

    def reserve(self, use: Use, prompt: int, answer: int, now: float) -> None:
        self._leased(lambda at: use.reserve(prompt, answer, at), now)

    def left(self, now: float) -> dict[str, Left]:
        return dict(self.allowance.left(now))

    def settle(self, now: float) -> None:
        asked = self.allowance.asks(now)
        leases = self.ledger.settle("one", {"acme": asked}, now, MONTH)
        self.allowance.take_up(asked, leases["acme"], now)

    def _leased(self, take: Callable[[float], T], now: float) -> T:
        try:
            return take(now)
        except OverLimit as error:
            if not self.allowance.needs(error, now):
                raise
            self.settle(now)
            return take(now)


def allowance(**limits: int) -> Own:
    ledger = LeaseLedger()
    ledger.begin(MONTH, {})
    return Own(ledger, **limits)


def test_a_minutes_requests_go_at_once_and_the_next_when_one_has_grown() -> None:
    own = allowance(requests_per_minute=6)
    for _ in range(6):
        own.begin(0.0).end(0)
    with pytest.raises(OverLimit, match="6 requests per minute, 0 left, 1 needed") as refused:
        own.begin(0.0)
    assert refused.value.wait_s == pytest.approx(10.0)
    own.begin(10.0)
    with pytest.raises(OverLimit):
        own.begin(10.0)


def test_what_an_answer_does_not_use_is_given_back_when_it_ends() -> None:
    own = allowance(tokens_per_minute=100)
    use = own.begin(0.0)
    own.reserve(use, 20, 70, 0.0)
    assert own.left(0.0)["tokens"].remaining == 10
    with pytest.raises(OverLimit, match="100 tokens per minute, 10 left, 30 needed"):
        own.reserve(own.begin(0.0), 10, 20, 0.0)
    use.end(5)
    use.end(5)
    assert own.left(0.0)["tokens"].remaining == 75


def test_a_request_larger_than_a_minute_goes_when_nothing_else_does() -> None:
    own = allowance(tokens_per_minute=100)
    use = own.begin(0.0)
    own.reserve(use, 150, 50, 0.0)
    use.end(30)
    assert own.left(0.0)["tokens"].remaining == 0
    with pytest.raises(OverLimit) as refused:
        own.begin(0.0)
    assert refused.value.wait_s == pytest.approx((180 - 100 + 1) * 60 / 100)


def test_so_many_requests_may_be_open_at_once() -> None:
    own = allowance(concurrent_requests=2)
    first = own.begin(0.0)
    own.begin(0.0)
    with pytest.raises(OverLimit, match="as many requests open as it may have: 2"):
        own.begin(0.0)
    first.end(0)
    own.begin(0.0)


def test_a_refused_request_counts_nothing() -> None:
    own = allowance(requests_per_minute=2, tokens_per_minute=10)
    own.reserve(own.begin(0.0), 10, 0, 0.0)
    with pytest.raises(OverLimit, match="tokens per minute"):
        own.begin(0.0)
    assert own.left(0.0)["requests"].remaining == 1


def test_limits_that_change_keep_what_was_used() -> None:
    own = allowance(requests_per_minute=2, tokens_per_minute=10)
    own.reserve(own.begin(0.0), 4, 0, 0.0)
    own.allowance.set_limits(Limits(requests_per_minute=5, tokens_per_minute=10))
    own.settle(0.0)
    left = own.left(0.0)
    assert (left["requests"].remaining, left["tokens"].remaining) == (4, 6)
    own.allowance.set_limits(Limits())
    assert own.left(0.0) == {}


def test_without_limits_nothing_is_refused() -> None:
    own = allowance()
    for _ in range(1000):
        own.reserve(own.begin(0.0), 10**9, 10**9, 0.0)


def test_what_a_month_has_left_is_reserved_and_what_was_used_of_it_is_gone() -> None:
    own = allowance(monthly_tokens=100)
    first = own.begin(0.0)
    own.reserve(first, 20, 50, 0.0)
    second = own.begin(0.0)
    with pytest.raises(OverBudget, match=r"has used 0 of the 100 tokens .*; 40 needed") as refused:
        own.reserve(second, 20, 20, 0.0)
    assert refused.value.wait_s == 1.0  # what is open may leave enough
    first.end(10)
    with pytest.raises(OverBudget, match=r"has used 30 of the 100 tokens .*; 80 needed") as refused:
        own.reserve(second, 20, 60, 0.0)
    assert refused.value.wait_s == MONTH_LEFT_S
    own.reserve(second, 20, 50, 0.0)
    second.end(50)
    with pytest.raises(OverBudget, match="has used 100 of the 100"):
        own.begin(1e6)


def test_a_budget_of_which_nobody_knows_what_was_used_is_not_touched() -> None:
    own = Own(LeaseLedger(), monthly_tokens=100)
    with pytest.raises(LimitsUnknown):
        own.begin(0.0)
    own.ledger.begin(MONTH, {"acme": 99})
    own.begin(1.0)
    with pytest.raises(OverBudget):
        own.reserve(own.begin(1.0), 1, 1, 1.0)


def test_a_request_of_which_a_limit_was_dropped_and_came_again_gives_nothing_back_to_it() -> None:
    own = allowance(concurrent_requests=1)
    use = own.begin(0.0)
    own.allowance.set_limits(Limits())
    own.allowance.set_limits(Limits(concurrent_requests=1))
    use.end(0)
    own.begin(0.0)
    with pytest.raises(OverLimit):
        own.begin(0.0)
