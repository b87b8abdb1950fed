"""Which running sequence gives way when not all can go on, or when another deserves its turn.

Last in order, and so the first to give way, is batch. Of the others, it is the tenant with the
largest *claim*: what it was served, and a slice for each sequence that it has running, as if that
had been charged already. An interactive sequence counts with its lead. Of one tenant, the less
urgent class is last, then the larger number in `priority`, then the model with the larger claim,
then what came last.

A waiting sequence takes the turn of a running one

- of batch, if it is not of batch itself;
- of another tenant, if its tenant has had less, by at least a slice, even with the price of its
  prompt, and claims no more than the other after the exchange;
- of its own tenant, if its class is more urgent, or if the same holds for their two models.

An exchange is undone only when the difference between the two has changed by two slices: tokens
were served, or sequences began and ended. So turns do not go to and fro, and an exchange costs
little of what was served since the last one.
"""

from collections.abc import Callable, Iterable

from serve_app.scheduling.fairness.accounts import Queue, Share, lead, slice_of
from serve_app.scheduling.fairness.lanes import Lanes
from serve_app.scheduling.fairness.queue import entry_price
from serve_app.scheduling.sequence import Rank, Sequence

_Position = tuple[bool, float, int, int, int, float, Rank]


class Precedence:
    """The order of sequences that run now. It holds until something is charged, begins or ends."""

    def __init__(self, lanes: Lanes, running: Iterable[Sequence]) -> None:
        self._lanes = lanes
        self._queues = {sequence: lanes.queue_of(sequence) for sequence in running}
        self._claims: dict[Share, float] = {}
        for queue in self._queues.values():
            self._claims[queue] = queue.claim
            self._claims[queue.account] = queue.account.claim

    def sorted(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Some of them; the last one gives way first."""
        return sorted(sequences, key=self._position)

    def last(self) -> Sequence:
        """Who gives way first."""
        return max(self._queues, key=self._position)

    def making_room(
        self, head: Sequence, starts: Callable[[list[Sequence]], bool]
    ) -> list[Sequence]:
        """Who gives way so that a waiting sequence can run; empty if it is to wait.

        starts: whether it could run if these gave way.
        """
        queue = self._lanes.queue_of(head)
        self._claims.setdefault(queue, queue.claim)
        self._claims.setdefault(queue.account, queue.account.claim)
        gone: list[Sequence] = []
        while not starts(gone):
            last = self._last_for(head, queue)
            if last is None:
                return []
            gone.append(last)
            self._drop(last)
        return gone

    def _last_for(self, head: Sequence, queue: Queue) -> Sequence | None:
        """Who gives way to it next: the last of all, or the last of its own tenant."""
        own = (s for s, theirs in self._queues.items() if theirs.account is queue.account)
        for those in (self._queues, own):
            last = max(those, key=self._position, default=None)
            if last is not None and self._gives_way(last, head, queue):
                return last
        return None

    def _gives_way(self, running: Sequence, head: Sequence, mine: Queue) -> bool:
        if running.is_batch != head.is_batch:
            return running.is_batch
        theirs = self._queues[running]
        if mine.account is not theirs.account:
            ahead = lead(head) - lead(running)
            return self._has_had_less(mine.account, theirs.account, head, running, ahead)
        if head.service_class is not running.service_class:
            return head.service_class.order < running.service_class.order
        if mine is theirs or head.priority > running.priority:
            return False
        return self._has_had_less(mine, theirs, head, running, 0.0)

    def _has_had_less(
        self, mine: Share, theirs: Share, head: Sequence, running: Sequence, ahead: float
    ) -> bool:
        """By a slice, once it has paid for its prompt; and it claims no more after the exchange."""
        gains = entry_price(head) / head.weight + slice_of(head) - ahead
        claims = self._claims[mine] + gains, self._claims[theirs] - slice_of(running)
        return mine.served + gains <= theirs.served and claims[0] <= claims[1]

    def _drop(self, sequence: Sequence) -> None:
        queue = self._queues.pop(sequence)
        for share in (queue, queue.account):
            self._claims[share] -= slice_of(sequence)

    def _position(self, sequence: Sequence) -> _Position:
        queue, account = self._queues[sequence], self._queues[sequence].account
        order, priority = sequence.service_class.order, sequence.priority
        claim = self._claims[account] - lead(sequence)
        model = self._claims[queue]
        return sequence.is_batch, claim, account.since, order, priority, model, sequence.rank
