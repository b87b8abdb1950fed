"""What is left of a tenant's limits, and what each of its requests takes. Knows no HTTP.

A request is counted when it comes. Its tokens are reserved when it is accepted, since only then
the length of its prompt is known: the prompt and the longest answer that it may get. What the
answer did not use is given back when it ends. A reservation is never more than a minute's tokens,
so a request that asks for more than those is served if nothing else is running; if it then uses
more, the tenant waits longer for the next.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve_app.tenants.keys_file import Limits
from serve_app.tenants.limits.holding import Holding
from serve_app.tenants.limits.lease import PER_MINUTE, Ask, Kind, Lease

_ONE_OF_EACH = dict.fromkeys((Kind.OPEN, Kind.REQUESTS, Kind.TOKENS, Kind.MONTH), 1)
_BUSY_WAIT_S = 1.0
"""What a caller is told to wait for one of its own requests to end."""


class OverLimit(Exception):
    """This ingress holds too little. wait_s: how long until the same may go.

    amounts: all that was to be taken.
    """

    def __init__(self, message: str, wait_s: float, amounts: Mapping[Kind, int]) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.amounts = amounts


class OverBudget(OverLimit):
    """The tenant has used what it may in this month."""


class LimitsUnknown(OverLimit):
    """Nobody can say what the tenant has used."""


@dataclass(frozen=True, slots=True)
class Left:
    """Of one limit per minute. reset_s: how long until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


class Allowance:
    """One tenant's leases and running requests, at one ingress. It asks nobody.

    month_s: gives the seconds that are left of the month.   lacks: called when more should be
    leased soon, or something handed back.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        month_s: Callable[[], float],
        lacks: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._month_s = month_s
        self._lacks = lacks
        self._num_open = 0
        self._limits = Limits()
        self._held: dict[Kind, Holding] = {}
        self._is_touched = False
        self.set_limits(limits)

    def set_limits(self, limits: Limits) -> None:
        """Take up other limits. What was used of one that changes still counts."""
        if limits is self._limits:
            return
        self._limits = limits
        for kind, limit in _by_kind(limits).items():
            if limit is None:
                self._held.pop(kind, None)
            elif kind in self._held:
                self._held[kind].limit = limit
            else:
                self._held[kind] = Holding(kind, limit)

    def begin(self, now: float) -> "Use":
        """A request has come. Raises OverLimit, and counts nothing."""
        self._is_touched = True
        self.require(self._held, _ONE_OF_EACH, now)
        self._num_open += 1
        return Use(self, self._held)

    def require(self, held: Mapping[Kind, Holding], wanted: Mapping[Kind, int], now: float) -> None:
        """Raises OverLimit if this ingress holds less of any."""
        for kind, amount in wanted.items():
            if kind in held and not held[kind].has(amount):
                error, message, wait_s = self._over(kind, held[kind], amount, now)
                raise error(message, wait_s, wanted)

    def _over(
        self, kind: Kind, held: Holding, amount: int, now: float
    ) -> tuple[type[OverLimit], str, float]:
        """What to say of one limit, and how long to wait."""
        if not held.is_known:
            message = f"What tenant '{self.name}' has used of its limits is not known at the moment"
            return LimitsUnknown, message, _BUSY_WAIT_S
        if kind is Kind.MONTH:
            message = (
                f"Tenant '{self.name}' has used {held.spent} of the {held.limit} tokens that it has"
                f" for this month; {amount} needed"
            )
            is_for_good = held.spent + amount > held.limit
            return OverBudget, message, self._month_s() if is_for_good else _BUSY_WAIT_S
        if kind is Kind.OPEN:
            message = f"Tenant '{self.name}' has as many requests open as it may have: {held.limit}"
            return OverLimit, message, _BUSY_WAIT_S
        message = (
            f"Rate limit reached for tenant '{self.name}': {held.limit} {kind} per minute,"
            f" {held.remaining(now)} left, {amount} needed"
        )
        return OverLimit, message, held.wait_s(amount, now)

    def left(self, now: float) -> Mapping[str, Left]:
        """By "requests" and "tokens": what is left, for all ingresses, of what has a limit."""
        return {
            kind.value: Left(held.limit, held.remaining(now), held.wait_s(held.limit, now))
            for kind, held in self._held.items()
            if kind in PER_MINUTE
        }

    def used(self, now: float) -> None:
        """Something was taken: more should be leased soon where little is left."""
        if any(held.is_low(now) for held in self._held.values()):
            self._lacks()

    def ended(self) -> None:
        """A request has ended, and has given back what it took."""
        self._num_open -= 1
        held = self._held.get(Kind.OPEN)
        if held is not None and held.held > held.spare:
            self._lacks()  # another ingress may need it

    def needs(self, error: OverLimit, now: float) -> bool:
        """Have the next `asks` ask for what is missing. -> False if the ledger has too little, too.

        What is not missing is needed as well: it is not handed back meanwhile.
        """
        of = [(self._held[kind], n) for kind, n in error.amounts.items() if kind in self._held]
        if not all(held.has(amount) or held.may_ask(amount, now) for held, amount in of):
            return False
        for held, amount in of:
            held.need(amount)
        return True

    def asks(self, now: float) -> Mapping[Kind, Ask]:
        """What to say to the ledger; nothing if it need not hear of this tenant."""
        is_touched, self._is_touched = self._is_touched, False
        is_idle = not is_touched and self._num_open == 0
        if is_idle and all(held.is_settled for held in self._held.values()):
            return {}
        return {kind: held.ask(now, tops_up=is_touched) for kind, held in self._held.items()}

    def take_up(self, asked: Mapping[Kind, Ask], leases: Mapping[Kind, Lease], now: float) -> None:
        """What the ledger answered."""
        for kind, lease in leases.items():
            if kind in self._held:
                self._held[kind].take_up(asked[kind], lease, now)

    def go_on_alone(self, now: float, since: float) -> None:
        """The ledger is away."""
        for held in self._held.values():
            held.go_on_alone(now, since)


class Use:
    """What one request takes of an allowance, from `begin` until `end`.

    held: the limits when it began; one that comes later does not count for it.
    """

    def __init__(self, allowance: Allowance, held: Mapping[Kind, Holding]) -> None:
        self._allowance = allowance
        self._held = dict(held)
        self._taken: dict[Kind, int] = {}
        self._prompt = 0
        self._is_open = True
        self._take({Kind.OPEN: 1, Kind.REQUESTS: 1})

    def reserve(self, prompt_tokens: int, answer_tokens: int, now: float) -> None:
        """It was accepted. Raises OverLimit, and takes nothing; the request must not go on then."""
        tokens = prompt_tokens + answer_tokens
        wanted = {Kind.TOKENS: tokens, Kind.MONTH: tokens}
        if Kind.TOKENS in self._held:
            wanted[Kind.TOKENS] = min(tokens, self._held[Kind.TOKENS].limit)
        self._allowance.require(self._held, wanted, now)
        self._take(wanted)
        self._prompt = prompt_tokens
        self._allowance.used(now)

    def end(self, num_answered: int) -> None:
        """It has ended, however that was, with so many tokens of answers. Once is enough."""
        if not self._is_open:
            return
        self._is_open = False
        tokens = self._prompt + num_answered
        for kind, taken in self._taken.items():
            match kind:
                case Kind.OPEN:
                    self._held[kind].give_back(taken)
                case Kind.TOKENS:
                    self._held[kind].give_back(taken - tokens)
                case Kind.MONTH:
                    self._held[kind].give_back(taken)
                    self._held[kind].spend(tokens)
        self._allowance.ended()

    def _take(self, wanted: Mapping[Kind, int]) -> None:
        for kind, amount in wanted.items():
            if kind in self._held:
                self._held[kind].use(amount)
                self._taken[kind] = amount


def _by_kind(limits: Limits) -> Mapping[Kind, int | None]:
    return {
        Kind.OPEN: limits.concurrent_requests,
        Kind.REQUESTS: limits.requests_per_minute,
        Kind.TOKENS: limits.tokens_per_minute,
        Kind.MONTH: limits.monthly_tokens,
    }
