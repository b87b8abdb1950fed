"""Decides fairly who is next. Knows queues and what they got, not places, blocks or steps.

Virtual token counters: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024,
arXiv:2401.00588), algorithm 2. Each (tenant, model) queue has a counter. A prompt is charged when
it is first admitted, and each generated token when it is produced, both divided by the weight of
the sequence. The queue with the lowest counter goes next. When something arrives in an empty queue,
its counter is lifted to the lowest counter of those with waiting sequences (or, if there are none,
to that of the last which had some), so that idle time is not saved up. A preempted sequence does
not pay twice and lifts nothing.

Beyond the paper, a queue may wait for its model to become resident. Its counter stands still
meanwhile, so it catches up afterwards. New queues are not lifted to such a counter, but to the
lowest of the queues that are being served; otherwise they would catch up on what they never missed.
The counters of two queues that both have waiting sequences and are both being served differ by at
most the tokens of one prompt or of everything that runs at once, whichever is more (lemma 4.3
there), plus what one missed while its model was not resident.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from serve_app.scheduling.sequence import ModelKey, Rank, Sequence


def _rank(sequence: Sequence) -> Rank:
    return sequence.rank


@dataclass(slots=True, eq=False)
class Queue:
    """The sequences of one tenant for one model. `served` is in virtual tokens."""

    tenant: str
    model: ModelKey
    backbone: str
    served: float = 0.0
    num_running: int = 0
    waiting: list[Sequence] = field(default_factory=list)

    @property
    def head(self) -> Sequence:
        return self.waiting[0]


class FairQueues:
    """All queues, and the number waiting for each backbone."""

    def __init__(self) -> None:
        # The backbone follows from the model; in the key, it need not be trusted.
        self._queues: dict[tuple[str, ModelKey, str], Queue] = {}
        self._num_waiting: dict[str, int] = {}
        self._level = 0.0
        self._last: Queue | None = None

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    def next(self, admits: Callable[[str], bool]) -> Queue | None:
        """The least served queue among those whose backbone admits sequences."""
        ready = (q for q in self if q.waiting and admits(q.backbone))
        return min(ready, key=lambda q: (q.served, q.head.rank), default=None)

    def num_waiting(self, backbone: str) -> int:
        return self._num_waiting.get(backbone, 0)

    def waiting(self, backbone: str) -> list[Queue]:
        """The queues with sequences that wait for this backbone."""
        return [q for q in self if q.waiting and q.backbone == backbone]

    def add(self, sequence: Sequence, admits: Callable[[str], bool]) -> None:
        """A sequence has arrived and waits; `admits` says which backbones are being served."""
        key = (sequence.tenant, sequence.model, sequence.backbone)
        self._raise_level(admits)
        if key not in self._queues:
            self._prune()
            self._queues[key] = Queue(*key)
        queue = self._queues[key]
        if not queue.waiting:
            queue.served = max(queue.served, self._level)
        self._insert(queue, sequence)

    def admit(self, sequence: Sequence) -> None:
        """A waiting sequence runs; its prompt is charged the first time."""
        queue = self._delete(sequence)
        queue.num_running += 1
        if not sequence.num_preemptions:
            self.charge(sequence, len(sequence.prompt))

    def put_back(self, sequence: Sequence) -> None:
        """A running sequence was preempted and waits again, ahead of those that came after it."""
        queue = self.leave(sequence)
        self._insert(queue, sequence)

    def leave(self, sequence: Sequence) -> Queue:
        """A running sequence runs no more."""
        queue = self._of(sequence)
        queue.num_running -= 1
        return queue

    def remove(self, sequence: Sequence) -> None:
        """A waiting sequence is given up."""
        self._delete(sequence)

    def charge(self, sequence: Sequence, num_tokens: int) -> None:
        self._of(sequence).served += num_tokens / sequence.weight

    def _of(self, sequence: Sequence) -> Queue:
        return self._queues[sequence.tenant, sequence.model, sequence.backbone]

    def _insert(self, queue: Queue, sequence: Sequence) -> None:
        insort(queue.waiting, sequence, key=_rank)
        self._num_waiting[queue.backbone] = self.num_waiting(queue.backbone) + 1
        self._last = queue

    def _delete(self, sequence: Sequence) -> Queue:
        queue = self._of(sequence)
        del queue.waiting[bisect_left(queue.waiting, sequence.rank, key=_rank)]
        self._num_waiting[queue.backbone] -= 1
        if not self._num_waiting[queue.backbone]:
            del self._num_waiting[queue.backbone]
        self._last = queue
        return queue

    def _raise_level(self, admits: Callable[[str], bool]) -> None:
        """Update the counter to which new queues are lifted; it never falls."""
        active = [q for q in self if q.waiting]
        if not active and self._last is not None:
            active = [self._last]
        served = [q.served for q in active if admits(q.backbone)] or [q.served for q in active]
        self._level = max(self._level, min(served, default=0.0))

    def _prune(self) -> None:
        """Forget idle queues whose counters would be lifted anyway when they come back."""
        idle = [
            key
            for key, q in self._queues.items()
            if not q.waiting and not q.num_running and q.served <= self._level
        ]
        for key in idle:
            del self._queues[key]
