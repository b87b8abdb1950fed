"""The ledger of leases with clocks, and with what was spent before it began. Knows no Ray."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic

from serve_app.tenants.limits.lease import Asks, Kind, Leases
from serve_app.tenants.limits.lease_ledger import LeaseLedger
from serve_app.tenants.limits.months import month_of

_log = logging.getLogger(__name__)
SpentIn = Callable[[str], Mapping[str, int]]


class LocalLessor:
    """`Lessor` for all ingresses that can call it. For one event loop.

    spent_in: reads how many tokens each tenant has spent in a month, in a thread of its own; while
    it has not, nobody with a budget gets a lease. It may raise anything; then it is called again
    for the next that asks. None: nothing was spent.
    """

    def __init__(self, spent_in: SpentIn | None = None) -> None:
        self._ledger = LeaseLedger()
        self._spent_in = spent_in
        self._reading: asyncio.Task[None] | None = None

    async def settle(self, ingress: str, asks: Asks) -> Leases:
        """The leases of one ingress. Never waits."""
        month = month_of(datetime.now(UTC))
        if not self._ledger.knows(month) and any(Kind.MONTH in asked for asked in asks.values()):
            self.read_month()
        return self._ledger.settle(ingress, asks, monotonic(), month)

    def read_month(self) -> None:
        """Begin to find out what was spent in this month, unless that is under way."""
        month = month_of(datetime.now(UTC))
        if self._spent_in is None:
            self._ledger.begin(month, {})
        elif self._reading is None:
            reading = self._read(month, self._spent_in)
            self._reading = asyncio.get_running_loop().create_task(reading)

    async def _read(self, month: str, spent_in: SpentIn) -> None:
        try:
            spent = await asyncio.to_thread(spent_in, month)
        except Exception as error:  # noqa: BLE001  whatever it is, leases of other limits go on
            _log.error("what tenants have spent this month cannot be read: %s", error)
        else:
            if month_of(datetime.now(UTC)) == month:
                self._ledger.begin(month, spent)
        finally:
            self._reading = None
