"""What is left of one limit of one tenant, and who has leased how much. Knows no clock."""

from dataclasses import dataclass

from serve_app.tenants.limits.lease import LASTS_S, Ask, Lease


@dataclass(slots=True)
class _Part:
    """What one ingress was granted and has used of it."""

    granted: float
    used: float
    heard_at: float

    @property
    def held(self) -> float:
        return self.granted - self.used


class Pot:
    """At most `limit` at once and, if it grows, as much more each minute. Times are in seconds, and
    never go back.

    Used may be more than granted: what is left is then below 0, and nothing more is granted until
    it has risen. So over all ingresses, what is used in any span of t seconds is at most
    limit × (1 + t / 60), plus the last overdraft.

    Of a limit that does not grow, an ingress that is silent has everything taken back that it was
    granted: what was open in it is gone with it.
    """

    def __init__(self, limit: int, now: float, *, grows: bool) -> None:
        self._limit = limit
        self._grows = grows
        self._left = float(limit)
        self._begun = self._now = now
        self._parts: dict[str, _Part] = {}

    def settle(self, ingress: str, ask: Ask, now: float) -> Lease:
        """Takes up what an ingress says, and grants what it needs, or nothing."""
        self._set_limit(ask.limit)
        self._forget(now)
        part = self._parts.get(ingress) or self._adopt(ingress, ask, now)
        part.used, part.heard_at = ask.used, now
        self._grow(now)
        available = part.held + self._left
        wanted = ask.want if ask.need <= available else part.held
        more = max(0.0, min(wanted, available)) - part.held
        part.granted += more
        self._left -= more
        return Lease(part.granted, self._left, 1 / len(self._parts))

    def _grow(self, now: float) -> None:
        """What is held counts as if it were here: a pot and its leases are never more than full."""
        if not self._grows:
            return
        room = self._limit - sum(max(0.0, part.held) for part in self._parts.values())
        grown = self._left + (now - self._now) * self._limit / 60
        self._left, self._now = min(grown, room), now

    def _set_limit(self, limit: int) -> None:
        """The difference counts at once: ingresses take up a new limit at different moments, and a
        pot that were full again each time would let through several times as much.
        """
        self._left += limit - self._limit
        self._limit = limit

    def _adopt(self, ingress: str, ask: Ask, now: float) -> _Part:
        """An ingress that is not known: it is new, or was silent, or this pot is new.

        A new pot may follow one that was lost. What ingresses remember of that one then counts, or
        its tenant would have a full pot again.
        """
        if not self._grows:
            self._left -= ask.granted
        elif ask.left is not None and now - self._begun <= LASTS_S:
            self._left = min(self._left, ask.left)
        part = self._parts[ingress] = _Part(ask.granted, ask.used, now)
        return part

    def _forget(self, now: float) -> None:
        for ingress, part in list(self._parts.items()):
            if now - part.heard_at > LASTS_S:
                del self._parts[ingress]
                if not self._grows:
                    self._left += part.granted
