"""How much waits and runs in a replica at once, and whose it is. Knows no engine.

Where there are several tenants, one may have at most half of what the others leave. So alone it may
fill half of the whole, and k tenants that send all they can fill 1 / (k + 1) each, and leave as
much for whoever comes next: what is open cannot be taken back. (Dynamic thresholds: Choudhury and
Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998.) Who has nothing
open may take all that is free, for a request that is larger than its half would never be taken
otherwise. Where there is no keys file, nobody else can come, and the only tenant may have all.

Who is refused is told when as much as it lacks should have ended, at the rate of the last seconds;
or that it never will be taken, as it is more by itself than its tenant may have.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import exp
from time import monotonic

from serve_app.protocol.errors import bad_request, overloaded
from serve_app.protocol.messages import Job

_RECENT_S = 10.0
"""What has ended counts half as much after some seven of these seconds."""
_LEAST_S, _MOST_S = 1.0, 60.0
"""What a client is told to wait, at least and at most."""


class Outflow:
    """How much of a tenant's ends in a second, lately: an average that forgets."""

    def __init__(self, now: float) -> None:
        self._begun = self._at = now
        self._recent = 0.0

    def add(self, amount: int, now: float) -> None:
        self._recent = self._recent * exp((self._at - now) / _RECENT_S) + amount
        self._at = now

    def wait_s(self, amount: int, now: float) -> float | None:
        """Until so much should have ended; None while nothing has."""
        seen_s = _RECENT_S * (1 - exp((self._begun - now) / _RECENT_S))
        recent = self._recent * exp((self._at - now) / _RECENT_S)
        if not recent or not seen_s:
            return None
        return min(max(_LEAST_S, amount * seen_s / recent), _MOST_S)


class Room:
    """For so many of one thing, `what`. Amounts are whole numbers."""

    def __init__(
        self,
        what: str,
        most: int,
        *,
        is_shared: bool = True,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """is_shared: whether there may be several tenants."""
        self._what = what
        self._most = most
        self._is_shared = is_shared
        self._clock = clock
        self._held = Counter[str]()
        self._outflows: dict[str, Outflow] = {}
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def take(self, tenant: str, amount: int, limit: int | None) -> None:
        """limit: the tenant's own, if it has one.

        Raises ProtocolError, with nothing changed: 429 if it is more than the tenant may have now,
        400 if it always would be.
        """
        most = self._most if limit is None else min(limit, self._most)
        if amount > most:
            raise bad_request(
                f"The request has {amount} {self._what}; tenant '{tenant}' may have {most} at once"
            )
        held = self._held[tenant]
        left = self._most - (self._total - held)
        allowed = left // 2 if held and self._is_shared else left
        if limit is not None:
            allowed = min(allowed, limit)
        if held + amount > allowed:
            raise overloaded(
                f"Tenant '{tenant}' has {held} {self._what} open and asks for {amount} more; now it"
                f" may have {allowed} of {self._most}. Try again later.",
                self._wait_s(tenant, held + amount - allowed),
            )
        if not held:
            self._outflows[tenant] = Outflow(self._clock())
        self._held[tenant] += amount
        self._total += amount

    def give_back(self, tenant: str, amount: int) -> None:
        """What was taken."""
        self._held[tenant] -= amount
        self._total -= amount
        if self._held[tenant]:
            self._outflows[tenant].add(amount, self._clock())
        else:
            del self._held[tenant]
            self._outflows.pop(tenant, None)

    def _wait_s(self, tenant: str, lacking: int) -> float | None:
        outflow = self._outflows.get(tenant)
        return None if outflow is None else outflow.wait_s(lacking, self._clock())


class OpenJobs:
    """Choices, and tokens of their prompts, of the jobs that wait and run. A prompt counts once for
    each of its choices.
    """

    def __init__(self, max_choices: int, max_tokens: int, *, is_shared: bool = True) -> None:
        """is_shared: whether there may be several tenants."""
        self.choices = Room("choices", max_choices, is_shared=is_shared)
        self.tokens = Room("prompt tokens", max_tokens, is_shared=is_shared)

    @contextmanager
    def entered(self, job: Job) -> Iterator["OpenJob"]:
        """A job, until the block ends. Raises ProtocolError as `Room.take`."""
        tenant = job["tenant"]
        num_choices = max(1, len(job["prompts"])) * job["n"]
        self.choices.take(tenant, num_choices, job["open_choices"])
        entered = OpenJob(self.tokens, job)
        try:
            yield entered
        finally:
            self.choices.give_back(tenant, num_choices)
            self.tokens.give_back(tenant, entered.num_tokens)


class OpenJob:
    """One job. num_tokens: once they are known."""

    def __init__(self, tokens: Room, job: Job) -> None:
        self._tokens = tokens
        self._job = job
        self.num_tokens = 0

    def take_tokens(self, num_tokens: int) -> None:
        """Its prompts are encoded. Raises ProtocolError as `Room.take`."""
        self._tokens.take(self._job["tenant"], num_tokens, self._job["open_tokens"])
        self.num_tokens = num_tokens
