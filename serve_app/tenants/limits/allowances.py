"""The allowances of all tenants that have asked for something, and their leases. Knows no HTTP."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from serve_app.tenants.keyring import Caller
from serve_app.tenants.limits.allowance import Allowance, OverLimit
from serve_app.tenants.limits.lease import Lessor, LessorAway
from serve_app.tenants.limits.months import seconds_left

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
EVERY_S = 1.0
"""How often the ledger hears of tenants that ask for something, or have requests open."""


class Allowances:
    """By tenant's name. Forgets no tenant: a keys file has few, and only they have keys.

    For one event loop. A request takes what is held here; only if that is too little, it waits
    until the ledger has answered. Nothing runs while no tenant has a lease or a request.
    """

    def __init__(self, lessor: Lessor, clock: Callable[[], float] = monotonic) -> None:
        self._lessor = lessor
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._held: dict[str, Allowance] = {}
        self._lacking = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._alone_since: float | None = None

    def of(self, caller: Caller) -> Allowance:
        """The caller's tenant's, with the limits that its keys file gives it now."""
        held = self._held.get(caller.name)
        if held is None:
            held = Allowance(caller.name, caller.tenant, seconds_left, self._lacking.set)
            self._held[caller.name] = held
        held.set_limits(caller.tenant)
        return held

    async def taken(self, allowance: Allowance, take: Callable[[float], _T]) -> _T:
        """What `take` gives, which takes something at a time. If too little is held, it is tried
        again with what the ledger gives. Raises OverLimit.
        """
        self._keep_settling()
        try:
            return take(self._clock())
        except OverLimit as error:
            if self._alone_since is not None or not allowance.needs(error, self._clock()):
                raise
        await self._settled()
        return take(self._clock())

    async def aclose(self) -> None:
        """Nothing runs any more. What is held is left to expire."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.wait({self._settling})

    def _keep_settling(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle_often())

    async def _settled(self) -> None:
        """Returns when the ledger was asked, and has answered or is away."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        self._lacking.set()
        await asyncio.shield(self._next)

    async def _settle_often(self) -> None:
        """Ends when there is nothing to say."""
        waiting: asyncio.Future[None] | None = None
        is_needed = True
        try:
            while is_needed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lacking.wait(), EVERY_S)
                self._lacking.clear()
                waiting, self._next = self._next, None
                is_needed = await self._settle()
                _wake(waiting)
        finally:
            _wake(waiting)
            _wake(self._next)
            self._next = None

    async def _settle(self) -> bool:
        """-> whether there was something to say."""
        asks = {name: held.asks(self._clock()) for name, held in self._held.items()}
        asks = {name: asked for name, asked in asks.items() if asked}
        if not asks:
            return False
        try:
            leases = await self._lessor.settle(self._name, asks)
        except LessorAway as error:
            self._go_on_alone(error)
            return True
        self._alone_since, now = None, self._clock()
        for name, asked in asks.items():
            self._held[name].take_up(asked, leases[name], now)
        return True

    def _go_on_alone(self, error: LessorAway) -> None:
        now = self._clock()
        if self._alone_since is None:
            _log.warning("each ingress counts limits for itself: %s", error)
            self._alone_since = now
        for allowance in self._held.values():
            allowance.go_on_alone(now, self._alone_since)


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
