"""How much waits and runs in a replica at once, and whose it is. Knows no engine and no clock.

A tenant may have at most half of what the others leave. So alone it may fill half of the whole, and
k tenants that send all they can fill 1 / (k + 1) each, and leave as much for whoever comes next.
(Dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", 1998.) Who has nothing open may take all that is free, for a request that is larger than
its half would never be taken otherwise.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.protocol.errors import overloaded
from serve_app.protocol.messages import Job


class Room:
    """For so many of one thing, `what`. Amounts are whole numbers."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._held = Counter[str]()
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def take(self, tenant: str, amount: int, limit: int | None) -> None:
        """limit: the tenant's own, if it has one.

        Raises ProtocolError 429, with nothing changed, if it is more than the tenant may have.
        """
        held = self._held[tenant]
        left = self._most - (self._total - held)
        allowed = left // 2 if held else left
        if limit is not None:
            allowed = min(allowed, limit)
        if held + amount > allowed:
            raise overloaded(
                f"Tenant '{tenant}' has {held} {self._what} open and asks for {amount} more; now it"
                f" may have {allowed} of {self._most}. Try again later."
            )
        self._held[tenant] += amount
        self._total += amount

    def give_back(self, tenant: str, amount: int) -> None:
        """What was taken."""
        self._held[tenant] -= amount
        self._total -= amount
        if not self._held[tenant]:
            del self._held[tenant]


class OpenJobs:
    """Choices, and tokens of their prompts, of the jobs that wait and run. A prompt counts once for
    each of its choices.
    """

    def __init__(self, max_choices: int, max_tokens: int) -> None:
        self.choices = Room("choices", max_choices)
        self.tokens = Room("prompt tokens", max_tokens)

    @contextmanager
    def entered(self, job: Job) -> Iterator["OpenJob"]:
        """A job, until the block ends. Raises ProtocolError 429 if it is one too many."""
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
        """Its prompts are encoded. Raises ProtocolError 429 if they are too many."""
        self._tokens.take(self._job["tenant"], num_tokens, self._job["open_tokens"])
        self.num_tokens = num_tokens
