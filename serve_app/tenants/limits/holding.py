"""What one ingress holds of one limit of one tenant: its lease, and what it has used. No clock."""

from serve_app.tenants.limits.lease import LASTS_S, PER_MINUTE, Ask, Kind, Lease, Spent

_SPARE = 20
"""A lease is topped up to a twentieth of the limit, so that most requests need not wait for one."""
_NOTHING = 1e-6
_ASK_AGAIN_S = 0.1
"""After the ledger had too little, for how long a request that wants more is refused at once."""


class Holding:
    """Times are in seconds, and never go back. Nothing is granted at first."""

    def __init__(self, kind: Kind, limit: int) -> None:
        self.limit = limit
        self._kind = kind
        self._granted = 0.0
        self._used = 0.0
        self._needs: list[float] = []
        self._left: float | None = None
        self._share = 0.0
        self._told_at = 0.0
        self._no_more_until = 0.0
        self._is_told = True
        self._spent = 0
        self._month = ""
        self._in_all: int | None = None

    @property
    def per_s(self) -> float:
        """What grows back each second."""
        return self.limit / 60 if self._kind in PER_MINUTE else 0.0

    @property
    def held(self) -> float:
        """What may be used; below 0 after more was used than granted."""
        return self._granted - self._used

    @property
    def spare(self) -> int:
        """How much to hold beyond what is needed now."""
        return self.limit // _SPARE

    @property
    def is_settled(self) -> bool:
        """Whether the ledger knows all that was used here, and nothing is held."""
        return self._is_told and abs(self.held) < _NOTHING

    @property
    def is_known(self) -> bool:
        """Whether a lease is good, so that what is left can be said."""
        return self._left is not None and (self._in_all is not None or self._kind is not Kind.MONTH)

    @property
    def spent(self) -> int:
        """Tokens of the tenant in this month, at all ingresses. With `MONTH` alone."""
        return self._in_all or 0

    def has(self, amount: float) -> bool:
        """Whether so much may be used."""
        return self.held >= amount

    def need(self, amount: float) -> None:
        """A request waits for so much: the next `ask` asks for it, or keeps it."""
        self._needs.append(amount)

    def use(self, amount: float) -> None:
        """Use it, even if it is not there."""
        self._used += amount
        self._is_told = False

    def give_back(self, amount: float) -> None:
        """What was to be used and was not."""
        self._used -= amount
        self._is_told = False

    def spend(self, tokens: int) -> None:
        """So much of what is held is gone for this month. With `MONTH` alone."""
        self._granted -= tokens
        self._spent += tokens
        if self._in_all is not None:
            self._in_all += tokens

    def may_ask(self, amount: float, now: float) -> bool:
        """Whether the ledger may have so much by now."""
        return now >= self._no_more_until or amount <= self.held + self.left(now)

    def ask(self, now: float, *, tops_up: bool) -> Ask:
        """tops_up: wants spare room too; else what is not needed is handed back."""
        needs, self._needs = self._needs, []
        self._is_told = True
        spent = None
        if self._kind is Kind.MONTH:
            spent = Spent(self._month, self._spent, self._in_all)
        return Ask(
            limit=self.limit,
            granted=self._granted,
            used=self._used,
            need=min(needs, default=0.0),
            want=sum(needs) + (self.spare if tops_up else 0),
            left=None if self._left is None else self.left(now),
            spent=spent,
        )

    def take_up(self, asked: Ask, lease: Lease, now: float) -> None:
        """The ledger's answer."""
        self._granted += lease.granted - asked.granted
        self._left, self._share, self._told_at = lease.left, lease.share, now
        if asked.want > lease.granted - asked.used:
            self._no_more_until = now + _ASK_AGAIN_S
        if asked.spent is not None:
            since = self._spent - asked.spent.by_me
            self._month = lease.month
            self._in_all = None if lease.spent is None else lease.spent + since

    def go_on_alone(self, now: float, since: float) -> None:
        """The ledger is away: takes its own share of what grows. When the lease has ended, nothing
        may be used.
        """
        self._is_told = False
        if now - since > LASTS_S:
            self._granted, self._left = min(self._granted, self._used), None
            return
        grown = (now - max(self._told_at, since)) * self.per_s * self._share
        self._granted += min(grown, max(0.0, self.limit - self.held))
        self._told_at = now

    def left(self, now: float) -> float:
        """What is left outside all leases, if nobody has leased any since it was told."""
        if self._left is None:
            return self.limit - max(0.0, self.held)
        room = self.limit - max(0.0, self.held)
        return min(self._left + (now - self._told_at) * self.per_s, room)

    def remaining(self, now: float) -> int:
        """What is left for all ingresses, as far as this one knows; at least 0."""
        return max(0, int(self.held + self.left(now)))

    def is_low(self, now: float) -> bool:
        """Whether it should be topped up, and may be."""
        return self.held < self.spare / 2 and self.may_ask(self.spare, now)

    def wait_s(self, amount: float, now: float) -> float:
        """How long until so much has grown, if nobody uses any meanwhile."""
        return max(0.0, amount - self.held - self.left(now)) / self.per_s
