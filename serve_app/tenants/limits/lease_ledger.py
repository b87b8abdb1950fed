"""The ledger of leases: what is left of every tenant's limits. Knows no clock, no file, no Ray."""

from collections.abc import Mapping
from dataclasses import replace

from serve_app.tenants.limits.lease import PER_MINUTE, Ask, Asks, Kind, Lease, Leases, Spent
from serve_app.tenants.limits.pot import Pot


class LeaseLedger:
    """Answers all ingresses of a deployment.

    It may be lost: a new one learns from the ingresses what was left, and from usage records what
    was spent in the month. It forgets no tenant: only those of a keys file ask.
    """

    def __init__(self) -> None:
        self._pots: dict[tuple[str, Kind], Pot] = {}
        self._month = ""
        self._spent: dict[str, int] = {}
        self._told: dict[tuple[str, str], int] = {}
        self._knows_month = False

    def knows(self, month: str) -> bool:
        """Whether `begin` was told what was spent in that month."""
        return self._knows_month and month == self._month

    def begin(self, month: str, spent: Mapping[str, int]) -> None:
        """What tenants have spent in that month, before this ledger was told anything of it."""
        self._turn_to(month)
        self._knows_month = True
        for tenant, tokens in spent.items():
            self._spent[tenant] = max(self._spent.get(tenant, 0), tokens)

    def settle(self, ingress: str, asks: Asks, now: float, month: str) -> Leases:
        """The leases of one ingress.   now: seconds that never go back.   month: as `2026-11`."""
        self._turn_to(month)
        return {
            tenant: {kind: self._lease(ingress, tenant, kind, ask, now) for kind, ask in of.items()}
            for tenant, of in asks.items()
        }

    def _lease(self, ingress: str, tenant: str, kind: Kind, ask: Ask, now: float) -> Lease:
        spent = None
        if ask.spent is not None:
            spent = self._take_up(ingress, tenant, ask.spent)
            left = 0 if spent is None else ask.limit - spent
            ask = replace(ask, limit=left)
        pot = self._pots.get((tenant, kind))
        if pot is None:
            pot = Pot(ask.limit, now, grows=kind in PER_MINUTE)
            self._pots[tenant, kind] = pot
        return replace(pot.settle(ingress, ask, now), month=self._month, spent=spent)

    def _take_up(self, ingress: str, tenant: str, said: Spent) -> int | None:
        """-> what the tenant has spent in this month, if anybody knows."""
        before = self._told.get((ingress, tenant))
        known = self._spent.get(tenant, 0 if self._knows_month else None)
        if before is not None and known is not None:
            known += said.by_me - before
        elif said.in_all is not None and said.month == self._month:
            known = max(known or 0, said.in_all)
        self._told[ingress, tenant] = said.by_me
        if known is not None:
            self._spent[tenant] = known
        return known

    def _turn_to(self, month: str) -> None:
        """A new month begins with nothing spent."""
        if month != self._month:
            self._knows_month = self._month != ""
            self._month = month
            self._spent.clear()
