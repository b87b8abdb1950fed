"""Several ingresses with one ledger: what a tenant gets of all of them, and when it is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve_app.tenants.keyring import Caller
from serve_app.tenants.keys_file import Tenant
from serve_app.tenants.limits import allowances as allowances_module
from serve_app.tenants.limits.allowance import LimitsUnknown, OverLimit, Use
from serve_app.tenants.limits.allowances import Allowances
from serve_app.tenants.limits.lease import LASTS_S, Asks, Leases, LessorAway
from serve_app.tenants.limits.lease_ledger import LeaseLedger

MONTH = "2026-11"


class Shared:
    """A ledger in virtual time. It may be away, or lost."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_away = False
        self.num_asked = 0
        self.ledger = LeaseLedger()
        self.ledger.begin(MONTH, {})

    async def settle(self, ingress: str, asks: Asks) -> Leases:
        await asyncio.sleep(0)
        if self.is_away:
            raise LessorAway("it is away")
        self.num_asked += 1
        return self.ledger.settle(ingress, asks, self.now, MONTH)


class Ingress:
    """What one ingress does for a tenant's requests."""

    def __init__(self, shared: Shared, **limits: int) -> None:
        self.allowances = Allowances(shared, lambda: shared.now)
        tenant = Tenant.model_validate(limits)
        self.own = self.allowances.of(Caller("acme", tenant, "", frozenset()))

    async def begin(self) -> Use | None:
        try:
            return await self.allowances.taken(self.own, self.own.begin)
        except LimitsUnknown:
            raise
        except OverLimit:
            return None

    async def turn(self, prompt: int, answer: int, used: int) -> bool:
        """One whole request. -> whether it was let through."""
        use = await self.begin()
        if use is None:
            return False
        try:
            await self.allowances.taken(self.own, lambda now: use.reserve(prompt, answer, now))
        except OverLimit:
            return False
        finally:
            use.end(used)
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on in the background goes on at once: time is virtual."""
    monkeypatch.setattr(allowances_module, "EVERY_S", 0.001)


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(20):
            return await test()

    return asyncio.run(within())


@pytest.mark.parametrize("num", [1, 3])
def test_the_limits_hold_to_a_tenth_however_many_ingresses_there_are(num: int) -> None:
    async def test() -> tuple[int, int]:
        shared = Shared()
        limits = {"requests_per_minute": 120, "tokens_per_minute": 60_000}
        ingresses = [Ingress(shared, **limits) for _ in range(num)]
        let = 0
        for second in range(240):  # 1,440 requests, twelve times as many as may go in a minute
            shared.now = second
            for number in range(6):
                let += await ingresses[(second + number) % num].turn(100, 300, 150)
            await asyncio.sleep(0.003)
        return let, shared.num_asked

    let, num_asked = run(test)
    assert let == pytest.approx(120 * 5, rel=0.1)  # what was saved up, and four minutes
    assert num_asked < 10_000


def test_a_request_waits_for_no_ledger_where_its_ingress_holds_enough() -> None:
    async def test() -> int:
        shared = Shared()
        ingress = Ingress(shared, requests_per_minute=6000, tokens_per_minute=10**7)
        assert await ingress.turn(10, 10, 10)
        before = shared.num_asked
        for _ in range(100):
            use = ingress.own.begin(0.0)
            use.reserve(10, 10, 0.0)
            use.end(10)
        return shared.num_asked - before

    assert run(test) == 0


def test_what_one_ingress_is_done_with_another_may_use_at_once() -> None:
    async def test() -> None:
        shared = Shared()
        first, second = (Ingress(shared, concurrent_requests=1) for _ in range(2))
        use = await first.begin()
        assert use is not None
        assert await second.begin() is None
        use.end(0)
        await asyncio.sleep(0.02)
        shared.now += 1.0
        assert await second.begin() is not None

    run(test)


def test_without_the_ledger_ingresses_go_on_for_30_s_with_their_shares() -> None:
    async def test() -> list[int]:
        shared = Shared()
        ingresses = [Ingress(shared, requests_per_minute=600) for _ in range(2)]
        while any([await one.turn(0, 0, 0) for one in ingresses]):
            pass
        shared.is_away = True
        let = [0, 0]
        for tenth in range(1, round(10 * LASTS_S)):
            shared.now = tenth / 10
            for number, one in enumerate(ingresses):
                let[number] += await one.turn(0, 0, 0)
            await asyncio.sleep(0.003)
        shared.now = LASTS_S + 1
        await asyncio.sleep(0.01)
        for one in ingresses:
            with pytest.raises(LimitsUnknown):
                await one.begin()
        shared.ledger, shared.is_away = LeaseLedger(), False
        await asyncio.sleep(0.01)
        shared.now += 1
        assert await ingresses[0].turn(0, 0, 0)
        return let

    first, second = run(test)
    assert first + second == pytest.approx(10 * LASTS_S, rel=0.1)
    assert abs(first - second) < 10


def test_a_ledger_that_was_lost_gives_no_second_minute() -> None:
    async def test() -> int:
        shared = Shared()
        ingresses = [Ingress(shared, requests_per_minute=100) for _ in range(2)]
        while any([await one.turn(0, 0, 0) for one in ingresses]):
            pass
        shared.ledger = LeaseLedger()
        shared.now += 0.5
        return sum([await one.turn(0, 0, 0) for one in ingresses for _ in range(50)])

    assert run(test) <= 5


def test_nothing_runs_once_it_is_closed() -> None:
    async def run() -> None:
        ingress = Ingress(Shared(), requests_per_minute=5)
        await ingress.allowances.aclose()
        assert await ingress.begin() is not None
        assert len(asyncio.all_tasks()) > 1
        await ingress.allowances.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
