"""How much each tenant may have open: its own share, and never another's."""

from collections import Counter
from random import Random

import pytest

from serve_app.api.requests.fields import CompletionFields
from serve_app.api.requests.jobs import completion_job
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Job
from serve_app.serving.replica.open_room import OpenJobs, Room
from serve_app.tenants.keyring import Caller
from serve_app.tenants.keys_file import Tenant


def fill(room: Room, tenant: str, amount: int = 1, limit: int | None = None) -> int:
    """How much it gets."""
    got = 0
    while True:
        try:
            room.take(tenant, amount, limit)
        except ProtocolError:
            return got
        got += amount


def test_a_tenant_alone_may_fill_half() -> None:
    room = Room("choices", 100)
    assert fill(room, "flood") == 50
    room.give_back("flood", 7)
    assert fill(room, "flood") == 7


def test_the_only_tenant_there_can_be_may_fill_all() -> None:
    room = Room("choices", 100, is_shared=False)
    assert fill(room, "default") == 100


def test_who_is_refused_is_told_when_what_it_lacks_should_have_ended() -> None:
    now = 0.0
    room = Room("choices", 100, clock=lambda: now)

    def told(amount: int) -> float | None:
        with pytest.raises(ProtocolError) as caught:
            room.take("flood", amount, None)
        return caught.value.retry_after_s

    fill(room, "flood")
    assert told(1) is None, "nothing has ended yet"
    for _ in range(20):
        now += 0.5
        room.give_back("flood", 1)
        room.take("flood", 1, None)
    assert told(8) == pytest.approx(4, rel=0.1), "two have ended a second"
    assert told(1) == 1
    now += 60
    assert told(8) == 60


def test_however_many_flood_the_next_finds_as_much_as_each_of_them_has_at_least() -> None:
    random, room, held = Random(7), Room("choices", 1200), Counter[str]()
    tenants = list("vwxyz")
    for _ in range(5_000):  # now and then an answer ends, and all of them ask for more
        leaving = random.choice(tenants)
        if held[leaving]:
            room.give_back(leaving, 1)
            held[leaving] -= 1
        for tenant in random.sample(tenants, 5):
            held[tenant] += fill(room, tenant)
    free = 1200 - room.total
    assert all(190 <= each <= 210 for each in [*held.values(), free])
    assert fill(room, "quiet") >= free // 2


def test_who_has_nothing_open_may_take_all_that_is_free() -> None:
    room = Room("prompt tokens", 100)
    room.take("small", 10, None)
    room.take("large", 90, None)
    assert fill(room, "large") == 0


def test_a_tenants_own_limit_holds() -> None:
    room = Room("choices", 100)
    assert fill(room, "acme", limit=3) == 3
    assert fill(room, "other") == 48


@pytest.mark.parametrize("limit", [None, 6, 200])
def test_what_is_more_by_itself_than_there_will_ever_be_is_not_to_be_sent_again(
    limit: int | None,
) -> None:
    room = Room("choices", 100)
    most = min(limit or 100, 100)
    with pytest.raises(ProtocolError, match=f"has {most + 1} choices.* {most} at once") as caught:
        room.take("acme", most + 1, limit)
    assert caught.value.code == "invalid_request"
    room.take("acme", most, limit)


def test_a_refusal_says_how_much_is_open_asked_for_and_possible() -> None:
    room = Room("choices", 100)
    room.take("acme", 30, None)
    with pytest.raises(ProtocolError, match=r"30 choices open and asks for 21 more.* 50 of 100"):
        room.take("acme", 21, None)


def test_what_was_refused_takes_nothing_and_what_is_given_back_is_free() -> None:
    random, room, held = Random(5), Room("choices", 64), Counter[str]()
    for _ in range(2000):
        tenant = random.choice("abcd")
        if random.random() < 0.5 and held[tenant]:
            given = random.randint(1, held[tenant])
            room.give_back(tenant, given)
            held[tenant] -= given
        else:
            amount = random.randint(1, 9)
            try:
                room.take(tenant, amount, None)
            except ProtocolError:
                continue
            held[tenant] += amount
        assert room.total == held.total() <= 64


def job(tenant: Tenant, **fields: object) -> Job:
    body = {"model": "a", "prompt": "the", "n": 3, **fields}
    caller = Caller("acme", tenant, "", frozenset())
    checked = CompletionFields.model_validate(body)
    return completion_job(checked, RequestLimits(), job="j", caller=caller)


def test_a_job_counts_with_its_n_and_its_prompts_until_it_ends() -> None:
    jobs = OpenJobs(12, 100)
    with jobs.entered(job(Tenant(), prompt=["x", "y"])) as entered:
        entered.take_tokens(60)
        assert (jobs.choices.total, jobs.tokens.total) == (6, 60)
        with pytest.raises(ProtocolError, match="6 choices open"), jobs.entered(job(Tenant())):
            pass
        assert jobs.choices.total == 6
    assert (jobs.choices.total, jobs.tokens.total) == (0, 0)


def test_a_job_with_too_many_tokens_leaves_nothing_behind() -> None:
    jobs = OpenJobs(12, 100)
    with (
        pytest.raises(ProtocolError, match="has 101 prompt tokens; tenant 'acme' may have 100"),
        jobs.entered(job(Tenant())) as entered,
    ):
        entered.take_tokens(101)
    assert (jobs.choices.total, jobs.tokens.total) == (0, 0)


@pytest.mark.parametrize("limit", [{"open_choices": 2}, {"open_tokens": 9}])
def test_the_limits_of_the_keys_file_travel_with_the_job(limit: dict[str, int]) -> None:
    jobs = OpenJobs(1000, 1000)
    with (
        pytest.raises(ProtocolError, match=r"may have [29] at once"),
        jobs.entered(job(Tenant(**limit))) as entered,
    ):
        entered.take_tokens(10)
