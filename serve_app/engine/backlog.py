"""What each tenant has waiting and running, in numbers for people. Decides nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.scheduling.sequence import Sequence


@dataclass(slots=True)
class Backlog:
    """Sequences of one tenant. waiting_tokens: known tokens of those that wait."""

    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0

    def add(self, other: "Backlog") -> None:
        self.num_running += other.num_running
        self.num_waiting += other.num_waiting
        self.waiting_tokens += other.waiting_tokens


def by_tenant(sequences: Iterable[Sequence]) -> dict[str, Backlog]:
    """Tenants that have any."""
    found: dict[str, Backlog] = {}
    for sequence in sequences:
        backlog = found.setdefault(sequence.tenant, Backlog())
        if sequence.place is None:
            backlog.num_waiting += 1
            backlog.waiting_tokens += len(sequence.tokens)
        else:
            backlog.num_running += 1
    return found
