"""The queues of urgent sequences, and those of batch, which has what the others leave over.

Both are fair in themselves, and a tenant's share of one says nothing about its share of the other.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, takewhile

from serve_app.scheduling.fairness.accounts import Queue
from serve_app.scheduling.fairness.queue import FairQueues
from serve_app.scheduling.sequence import Sequence
from serve_app.service_class import ServiceClass


class Lanes:
    """`urgent`: interactive and standard sequences.

    max_batch_wait_s: so long after it came, one of batch is a standard one.
    """

    def __init__(self, max_batch_wait_s: float) -> None:
        self.urgent = FairQueues()
        self.batch = FairQueues()
        self._max_batch_wait_s = max_batch_wait_s
        self._due: dict[Sequence, float] = {}
        """When each sequence of batch becomes a standard one, earliest first."""

    def __iter__(self) -> Iterator[Queue]:
        return chain(self.urgent, self.batch)

    def of(self, sequence: Sequence) -> FairQueues:
        """The queues among which this sequence waits, or is charged while it runs."""
        return self.batch if sequence.is_batch else self.urgent

    def queue_of(self, sequence: Sequence) -> Queue:
        return self.of(sequence).of(sequence)

    def num_waiting(self, backbone: str) -> int:
        return self.urgent.num_waiting(backbone) + self.batch.num_waiting(backbone)

    def check(self, running: Iterable[Sequence]) -> None:
        """Assert that the queues count what waits in them, and these sequences that run."""
        of_queue: dict[Queue, list[Sequence]] = {}
        for sequence in running:
            of_queue.setdefault(self.queue_of(sequence), []).append(sequence)
        for queues in (self.urgent, self.batch):
            queues.check(of_queue)
        known = {s for queue in self for s in (*queue.waiting, *of_queue.get(queue, ()))}
        assert {s for s in known if s.is_batch} == set(self._due), "what is due is not batch"
        due = list(self._due.values())
        assert due == sorted(due), f"what is due is out of order: {due}"

    def add(self, sequence: Sequence, admits: Callable[[str], bool], now: float) -> None:
        """A sequence has arrived and waits; `admits` says which backbones are being served."""
        self.of(sequence).add(sequence, admits)
        if sequence.is_batch:
            self._due[sequence] = now + self._max_batch_wait_s

    def end(self, sequence: Sequence) -> None:
        """A sequence, waiting or running, is there no more."""
        queues = self.of(sequence)
        if sequence.place is None:
            queues.remove(sequence)
        else:
            queues.leave(sequence)
        self._due.pop(sequence, None)

    def promote(self, admits: Callable[[str], bool], now: float) -> list[Sequence]:
        """Make standard what has been in batch for too long. -> those sequences"""
        due = list(takewhile(lambda sequence: self._due[sequence] <= now, self._due))
        for sequence in due:
            self.end(sequence)
            sequence.service_class = ServiceClass.STANDARD
            if sequence.place is None:
                self.urgent.add(sequence, admits)
            else:
                self.urgent.take_over(sequence, admits)
        return due
