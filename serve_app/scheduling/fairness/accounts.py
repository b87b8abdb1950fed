"""What each tenant and each of its models were served, in virtual tokens. Decides nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_app.scheduling.sequence import ModelKey, Rank, Sequence
from serve_app.service_class import ServiceClass

Turn = tuple[float, int, int, int, float, Rank]

INTERACTIVE_LEAD = 5_000.0
"""Virtual tokens by which an interactive sequence may be ahead of others and still go first."""
SLICE = 512.0
"""Virtual tokens that a running sequence counts for beyond what it was charged so far."""


@dataclass(slots=True, eq=False, kw_only=True)
class Share:
    """What somebody was served, and has running. pace: of what runs, the sum of 1 / weight."""

    served: float = 0.0
    num_running: int = 0
    pace: float = 0.0

    @property
    def claim(self) -> float:
        """What it was served, and a slice for each sequence that runs."""
        return self.served + SLICE * self.pace

    def begin(self, sequence: Sequence) -> None:
        """One more sequence of it runs."""
        self.num_running += 1
        self.pace += 1 / sequence.weight

    def end(self, sequence: Sequence) -> None:
        """One sequence less runs."""
        self.num_running -= 1
        self.pace = self.pace - 1 / sequence.weight if self.num_running else 0.0


@dataclass(slots=True, eq=False)
class Account(Share):
    """One tenant. `level`: what a queue of it is lifted to when something arrives there again.

    `last`: the queue that had waiting sequences last. `since`: the number of the sequence with
    which it began to wait; among tenants that were served alike, the smallest goes first.
    """

    tenant: str
    num_waiting: int = 0
    since: int = 0
    level: float = 0.0
    queues: "dict[tuple[ModelKey, str], Queue]" = field(default_factory=dict)
    last: "Queue | None" = None

    @property
    def is_idle(self) -> bool:
        return not self.num_waiting and not self.num_running


@dataclass(slots=True, eq=False)
class Queue(Share):
    """The sequences of one tenant for one model. `served`: within the tenant's account."""

    account: Account
    model: ModelKey
    backbone: str
    waiting: list[Sequence] = field(default_factory=list)

    @property
    def tenant(self) -> str:
        return self.account.tenant

    @property
    def head(self) -> Sequence:
        return self.waiting[0]

    @property
    def turn(self) -> Turn:
        """Smaller goes first: by tenant; then by class and priority, by model, and by rank."""
        account, head = self.account, self.head
        order, priority = head.service_class.order, head.priority
        ahead = account.served - lead(head)
        return ahead, account.since, order, priority, self.served, head.rank


def lead(sequence: Sequence) -> float:
    """By how much more its tenant may have been served than another's and still go first."""
    return INTERACTIVE_LEAD if sequence.service_class is ServiceClass.INTERACTIVE else 0.0


def slice_of(sequence: Sequence) -> float:
    """What a running sequence counts for, beyond what its tenant was charged."""
    return SLICE / sequence.weight


def least(served: Iterable[float], before: float) -> float:
    """The level that is to hold now: the least served, and never less than before."""
    return max(before, min(served, default=before))
