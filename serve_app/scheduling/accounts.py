"""What each tenant and each of its models were served, in virtual tokens. Decides nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from serve_app.scheduling.sequence import ModelKey, Rank, Sequence


@dataclass(slots=True, eq=False)
class Account:
    """One tenant. `level`: what a queue of it is lifted to when something arrives there again.

    `last`: the queue that had waiting sequences last.
    """

    tenant: str
    served: float = 0.0
    num_waiting: int = 0
    num_running: int = 0
    level: float = 0.0
    queues: "dict[tuple[ModelKey, str], Queue]" = field(default_factory=dict)
    last: "Queue | None" = None

    @property
    def is_idle(self) -> bool:
        return not self.num_waiting and not self.num_running


@dataclass(slots=True, eq=False)
class Queue:
    """The sequences of one tenant for one model. `served`: within the tenant's account."""

    account: Account
    model: ModelKey
    backbone: str
    served: float = 0.0
    num_running: int = 0
    waiting: list[Sequence] = field(default_factory=list)

    @property
    def tenant(self) -> str:
        return self.account.tenant

    @property
    def head(self) -> Sequence:
        return self.waiting[0]

    @property
    def turn(self) -> tuple[float, float, Rank]:
        """Smaller goes first: by what the tenant was served, then the queue, then by rank."""
        return self.account.served, self.served, self.head.rank


def least(served: Iterable[float], before: float) -> float:
    """The level that is to hold now: the least served, and never less than before."""
    return max(before, min(served, default=before))
