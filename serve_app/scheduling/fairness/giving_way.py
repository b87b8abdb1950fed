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

from serve_app.scheduling.fairness.accounts import Share, lead, slice_of
from serve_app.scheduling.fairness.lanes import Lanes
from serve_app.scheduling.fairness.queue import entry_price
from serve_app.scheduling.sequence import Rank, Sequence

_Position = tuple[bool, float, int, int, int, float, Rank]


class Precedence:
    """The order of sequences that run now."""

    def __init__(self, lanes: Lanes, running: Iterable[Sequence]) -> None:
        self._lanes = lanes
        self._running = running
        self._given_up: dict[Share, float] = {}

    def sorted(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Some of them; the last one gives way first."""
        return sorted(sequences, key=self._position)

    def last(self) -> Sequence:
        """Who gives way first."""
        return max(self._running, key=self._position)

    def making_room(
        self, head: Sequence, starts: Callable[[list[Sequence]], bool]
    ) -> list[Sequence]:
        """Who gives way so that a waiting sequence can run; empty if it is to wait.

        starts: whether it could run if these gave way.
        """
        gone: list[Sequence] = []
        candidates = [s for s in self._running if self._deserves_more(head, s)]
        while not starts(gone):
            candidates = [s for s in candidates if self._claims_no_more(head, s)]
            if not candidates:
                return []
            gone.append(max(candidates, key=self._position))
            candidates.remove(gone[-1])
            self._give_up(gone[-1])
        return gone

    def _deserves_more(self, head: Sequence, running: Sequence) -> bool:
        """Whether it is more urgent, or has had less by a slice once it has paid for its prompt."""
        if running.is_batch != head.is_batch:
            return running.is_batch
        mine, theirs = self._lanes.queue_of(head), self._lanes.queue_of(running)
        if mine.account is not theirs.account:
            after = mine.account.served + _gains(head) - lead(head)
            return after <= theirs.account.served - lead(running)
        if head.service_class is not running.service_class:
            return head.service_class.order < running.service_class.order
        if mine is theirs or head.priority > running.priority:
            return False
        return mine.served + _gains(head) <= theirs.served

    def _claims_no_more(self, head: Sequence, running: Sequence) -> bool:
        """Whether its tenant, or model, claims no more than the other's after the exchange."""
        mine, theirs = self._lanes.queue_of(head), self._lanes.queue_of(running)
        if running.is_batch != head.is_batch or (
            mine.account is theirs.account and head.service_class is not running.service_class
        ):
            return True
        if mine.account is theirs.account:
            return self._claim(mine) + _gains(head) <= self._claim(theirs) - slice_of(running)
        before, after = self._claim(theirs.account), self._claim(mine.account) + _gains(head)
        return after - lead(head) <= before - lead(running) - slice_of(running)

    def _claim(self, share: Share) -> float:
        return share.claim - self._given_up.get(share, 0.0)

    def _give_up(self, sequence: Sequence) -> None:
        queue = self._lanes.queue_of(sequence)
        for share in (queue, queue.account):
            self._given_up[share] = self._given_up.get(share, 0.0) + slice_of(sequence)

    def _position(self, sequence: Sequence) -> _Position:
        queue = self._lanes.queue_of(sequence)
        order, priority = sequence.service_class.order, sequence.priority
        claim = self._claim(queue.account) - lead(sequence)
        since, model = queue.account.since, self._claim(queue)
        return sequence.is_batch, claim, since, order, priority, model, sequence.rank


def _gains(head: Sequence) -> float:
    """What its tenant claims more once it runs."""
    return entry_price(head) / head.weight + slice_of(head)
