"""What an ingress and the ledger of leases say to each other: plain values. Computes nothing.

An ingress uses what it was *granted*. Both sides count in totals, never in differences, so a
message that is lost or said twice changes nothing. Times are spans in seconds: the two share no
clock.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """What is limited."""

    REQUESTS = "requests"
    """Requests per minute."""
    TOKENS = "tokens"
    """Tokens per minute."""
    OPEN = "open"
    """Requests at once."""
    MONTH = "month"
    """Tokens in a calendar month (UTC)."""


PER_MINUTE = frozenset({Kind.REQUESTS, Kind.TOKENS})
"""What grows back while time passes. Of the others, what is used comes back when a request ends."""
LASTS_S = 30.0
"""How long a lease is good, and after which the ledger forgets an ingress that says nothing."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of answered requests.   by_me: of this ingress, since it began.

    month: as `2026-11`.   in_all: of the tenant in that month, as far as the ingress knows; None:
    it was never told.
    """

    month: str
    by_me: int
    in_all: int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """About one limit of one tenant.

    granted, used: in all so far; what was given back is not used.   need: so much more at least,
    or nothing.   want: so much more, if there is enough; what is held beyond that is handed back.
    left: what the ingress thinks is left outside all leases, None if it was never told.
    spent: with `MONTH` alone.
    """

    limit: int
    granted: float
    used: float
    need: float
    want: float
    left: float | None
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer.   granted: in all, what the ingress may use.   left: outside all leases.

    share: of what grows back, what this ingress may take if the ledger is away.
    month, spent: with `MONTH` alone: the tokens of the tenant in that month. `spent` is None while
    nobody knows; then nothing is granted.
    """

    granted: float
    left: float
    share: float
    month: str = ""
    spent: int | None = None


Asks = Mapping[str, Mapping[Kind, Ask]]
"""By tenant."""
Leases = Mapping[str, Mapping[Kind, Lease]]
"""By tenant."""


class LessorAway(Exception):
    """The ledger cannot be asked now."""


class Lessor(Protocol):
    """Where an ingress reaches the ledger."""

    def settle(self, ingress: str, asks: Asks) -> Awaitable[Leases]:
        """Raises LessorAway."""
        ...
