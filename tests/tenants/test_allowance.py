"""Limits per minute: what goes, what must wait, what is given back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.tenants.allowance import Allowance, OverLimit
from serve_app.tenants.keys_file import Limits
from serve_app.tenants.token_bucket import TokenBucket


def allowance(**limits: int) -> Allowance:
    return Allowance("acme", Limits(**limits), 0.0)


def test_a_minutes_requests_go_at_once_and_the_next_when_one_has_grown() -> None:
    own = allowance(requests_per_minute=6)
    for _ in range(6):
        own.begin(0.0).end(0, 0.0)
    with pytest.raises(OverLimit, match="6 requests per minute, 0 left, 1 needed") as refused:
        own.begin(0.0)
    assert refused.value.wait_s == pytest.approx(10.0)
    own.begin(10.0)
    with pytest.raises(OverLimit):
        own.begin(10.0)


def test_what_an_answer_does_not_use_is_given_back_when_it_ends() -> None:
    own = allowance(tokens_per_minute=100)
    use = own.begin(0.0)
    use.reserve(20, 70, 0.0)
    assert own.left(0.0)["tokens"].remaining == 10
    with pytest.raises(OverLimit, match="100 tokens per minute, 10 left, 30 needed"):
        own.begin(0.0).reserve(10, 20, 0.0)
    use.end(5, 0.0)
    use.end(5, 0.0)
    assert own.left(0.0)["tokens"].remaining == 75


def test_a_request_larger_than_a_minute_goes_when_nothing_else_does() -> None:
    own = allowance(tokens_per_minute=100)
    use = own.begin(0.0)
    use.reserve(150, 50, 0.0)
    use.end(30, 0.0)
    assert own.left(0.0)["tokens"].remaining == 0
    with pytest.raises(OverLimit) as refused:
        own.begin(0.0)
    assert refused.value.wait_s == pytest.approx((180 - 100 + 1) * 60 / 100)


def test_so_many_requests_may_be_open_at_once() -> None:
    own = allowance(concurrent_requests=2)
    first = own.begin(0.0)
    own.begin(0.0)
    with pytest.raises(OverLimit, match="has 2 requests open; its limit is 2"):
        own.begin(0.0)
    first.end(0, 0.0)
    own.begin(0.0)


def test_a_refused_request_counts_nothing() -> None:
    own = allowance(requests_per_minute=2, tokens_per_minute=10)
    own.begin(0.0).reserve(10, 0, 0.0)
    with pytest.raises(OverLimit, match="tokens per minute"):
        own.begin(0.0)
    assert own.left(0.0)["requests"].remaining == 1


def test_limits_that_stay_keep_what_was_used_and_others_begin_anew() -> None:
    own = allowance(requests_per_minute=2, tokens_per_minute=10)
    own.begin(0.0).reserve(4, 0, 0.0)
    own.set_limits(Limits(requests_per_minute=5, tokens_per_minute=10), 0.0)
    left = own.left(0.0)
    assert (left["requests"].remaining, left["tokens"].remaining) == (5, 6)
    own.set_limits(Limits(), 0.0)
    assert own.left(0.0) == {}


def test_without_limits_nothing_is_refused() -> None:
    own = allowance()
    for _ in range(1000):
        own.begin(0.0).reserve(10**9, 10**9, 0.0)


@settings(deadline=None)
@given(
    per_minute=st.integers(1, 1000),
    asked=st.lists(st.tuples(st.floats(0, 30), st.integers(0, 400)), max_size=60),
)
def test_in_no_span_of_time_goes_more_than_a_full_bucket_and_what_grows(
    per_minute: int, asked: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    now, went = 0.0, list[tuple[float, float]]()
    for pause, amount in asked:
        now += pause
        if amount <= per_minute and bucket.has(amount, now):
            bucket.take(amount, now)
            went.append((now, amount))
    for i, (start, _) in enumerate(went):
        for j in range(i, len(went)):
            span = went[j][0] - start
            total = sum(amount for _, amount in went[i : j + 1])
            assert total <= per_minute * (1 + span / 60) + 1e-6


@settings(deadline=None)
@given(per_minute=st.integers(1, 1000), taken=st.integers(0, 2000), amount=st.integers(1, 1000))
def test_after_the_time_to_wait_there_is_enough(per_minute: int, taken: int, amount: int) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    bucket.take(taken, 0.0)
    wait = bucket.wait_s(amount, 0.0)
    assert bucket.has(amount, wait + 1e-6)
    fresh = TokenBucket(per_minute, 0.0)
    fresh.take(taken, 0.0)
    assert wait < 1e-6 or not fresh.has(amount, wait * 0.99)
