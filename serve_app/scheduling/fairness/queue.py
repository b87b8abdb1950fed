"""Decides fairly who is next. Knows tenants and what they got, not places, blocks or steps.

Virtual token counters: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024,
arXiv:2401.00588), algorithm 2, on two levels. Each tenant has a counter, and each of its models one
of its own. The tenant with the lowest counter goes next, with the model of the lowest counter among
its own. So a tenant that asks ten models gets one tenant's share.

A prompt is charged when it is first admitted, and each token of an answer when it is produced, at
the prices below, divided by the weight of the sequence. When something arrives where nothing waits,
the counter is lifted to the lowest of those with waiting sequences (or, if there are none, to that
of the last which had some), so that idle time is not saved up. A preempted sequence does not pay
twice and lifts nothing.

Beyond the paper, a queue may wait for its model to become resident. Its counter stands still
meanwhile, so it catches up afterwards. New ones are not lifted to such a counter, but to the lowest
of those that are being served; otherwise they would catch up on what they never missed.

An interactive sequence goes before others as long as its tenant was served at most
`INTERACTIVE_LEAD` more than theirs. Of one tenant, the more urgent class goes first, then the
smaller `priority`, then the model that was served least.

The bound. Take two tenants that both have sequences waiting that may be admitted. What they were
charged since they both did so differs by at most 2 × (I + L + G). I is the lead of interactive
sequences. The other two are divided by the lower weight: L, the price of the longest prompt; and G,
what one tenant may be charged for what runs already while the other waits (lemma 4.3 there). G is
the least of

- the price of the answers that all that runs at once may get;
- 2 slices (accounts.py) and a token for each of `max_sequences`, if what they wait for is one of
  these: then others give way (giving_way.py);
- a slice for each of `max_sequences`, and those 2, if it is units of a need.

What one of them missed while none of its models was resident comes on top. The same holds, without
the lead, for two models of one tenant, among sequences of one class and priority.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from math import isclose

from serve_app.scheduling.fairness.accounts import Account, Queue, Share, least
from serve_app.scheduling.fairness.next_queues import Turns
from serve_app.scheduling.sequence import Rank, Sequence

PROMPT_PRICE = 1.0
"""Virtual tokens for a token of a prompt."""
CACHED_PRICE = 0.1
"""For one that was already computed: it takes memory, and a step's attention, but no step."""
ANSWER_PRICE = 2.0
"""For a token of an answer, which takes a step of its own; the paper's ratio."""


def _rank(sequence: Sequence) -> Rank:
    return sequence.rank


class FairQueues:
    """The queues of all tenants that are fair to each other, and what waits for each backbone."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._turns = Turns()
        self._of: dict[Sequence, Queue] = {}
        self._waiting: dict[str, list[int]] = {}
        """By backbone: the numbers of the sequences that wait for it, in order."""
        self._level = 0.0
        self._last: Account | None = None
        self._prune_at = 2

    def __iter__(self) -> Iterator[Queue]:
        return (q for account in self._accounts.values() for q in account.queues.values())

    @property
    def backbones(self) -> list[str]:
        """Those that something waits for."""
        return list(self._waiting)

    def of(self, sequence: Sequence) -> Queue:
        """Where a sequence waits, or is charged while it runs."""
        return self._of[sequence]

    def next(self, admits: Callable[[str], bool]) -> Queue | None:
        """The queue whose turn it is, among those whose backbone admits sequences."""
        firsts = (self._turns.first(b) for b in self._turns.backbones if admits(b))
        first = min((entry for entry in firsts if entry), default=None)
        return None if first is None else first[2]

    def num_waiting(self, backbone: str) -> int:
        return len(self._waiting.get(backbone, ()))

    def first_waiting(self, backbone: str) -> int | None:
        """The lowest number of a sequence that waits for this backbone."""
        return self._waiting[backbone][0] if self.num_waiting(backbone) else None

    def least_served(self, backbone: str) -> float | None:
        """The lowest counter of a tenant that waits for this backbone."""
        first = self._turns.first(backbone)
        return None if first is None else first[2].account.served

    def add(self, sequence: Sequence, admits: Callable[[str], bool]) -> None:
        """A sequence has arrived and waits; `admits` says which backbones are being served."""
        queue = self._of[sequence] = self._lifted(sequence, admits)
        self._insert(queue, sequence)

    def admit(self, sequence: Sequence) -> None:
        """A waiting sequence runs; its prompt is charged the first time."""
        queue = self._delete(sequence)
        _begin(queue, sequence)
        self._charge(queue, sequence, entry_price(sequence, sequence.num_found or 0))

    def take_over(self, sequence: Sequence, admits: Callable[[str], bool]) -> None:
        """A sequence runs already, and is charged here from now on."""
        queue = self._of[sequence] = self._lifted(sequence, admits)
        _begin(queue, sequence)

    def put_back(self, sequence: Sequence) -> None:
        """A running sequence was preempted and waits again, ahead of those that came after it."""
        queue = self._of[sequence]
        _end(queue, sequence)
        self._insert(queue, sequence)

    def leave(self, sequence: Sequence) -> None:
        """A running sequence runs no more."""
        _end(self._of.pop(sequence), sequence)

    def remove(self, sequence: Sequence) -> None:
        """A waiting sequence is given up."""
        self._delete(sequence)
        del self._of[sequence]

    def charge_answer(self, sequence: Sequence) -> None:
        """A running sequence got a token."""
        self._charge(self._of[sequence], sequence, ANSWER_PRICE)

    def check(self, running: Mapping[Queue, Collection[Sequence]]) -> None:
        """Assert that every count agrees with what waits, and with what runs of each queue."""
        numbers: dict[str, list[int]] = {}
        for account in self._accounts.values():
            queues = account.queues.values()
            assert account.num_waiting == sum(len(queue.waiting) for queue in queues)
            _check(account, [s for queue in queues for s in running.get(queue, ())])
            for queue in queues:
                _check(queue, running.get(queue, ()))
                ranks = [s.rank for s in queue.waiting]
                assert ranks == sorted(ranks), f"queue {queue.tenant, queue.model} is out of order"
                numbers.setdefault(queue.backbone, []).extend(s.number for s in queue.waiting)
        count = sum(each.num_waiting + each.num_running for each in self._accounts.values())
        assert len(self._of) == count, f"{len(self._of)} sequences are known, {count} are there"
        found = {backbone: sorted(waiting) for backbone, waiting in numbers.items() if waiting}
        assert found == self._waiting, f"waiting {found}, index {self._waiting}"

    def _charge(self, queue: Queue, sequence: Sequence, price: float) -> None:
        queue.served += price / sequence.weight
        queue.account.served += price / sequence.weight

    def _lifted(self, sequence: Sequence, admits: Callable[[str], bool]) -> Queue:
        """Where it belongs, with the idle time of its tenant and of its model forgotten."""
        self._raise_level(admits)
        queue = self._queue_for(sequence)
        account = queue.account
        if not account.num_waiting:
            account.served = max(account.served, self._level)
            account.since = sequence.number
        if not queue.waiting:
            _raise_level_of(account, admits)
            queue.served = max(queue.served, account.level)
        return queue

    def _queue_for(self, sequence: Sequence) -> Queue:
        account = self._accounts.get(sequence.tenant)
        if account is None:
            self._prune()
            account = self._accounts[sequence.tenant] = Account(sequence.tenant)
        # The backbone follows from the model; in the key, it need not be trusted.
        key = sequence.model, sequence.backbone
        if key not in account.queues:
            _prune_queues(account)
            account.queues[key] = Queue(account, *key)
        return account.queues[key]

    def _insert(self, queue: Queue, sequence: Sequence) -> None:
        insort(queue.waiting, sequence, key=_rank)
        if queue.head is sequence:
            self._turns.put(queue)
        insort(self._waiting.setdefault(queue.backbone, []), sequence.number)
        if not queue.account.num_waiting:
            queue.account.since = sequence.number
        queue.account.num_waiting += 1
        self._note(queue)

    def _delete(self, sequence: Sequence) -> Queue:
        queue = self._of[sequence]
        del queue.waiting[bisect_left(queue.waiting, sequence.rank, key=_rank)]
        if not queue.waiting:
            self._turns.drop(queue)
        numbers = self._waiting[queue.backbone]
        del numbers[bisect_left(numbers, sequence.number)]
        if not numbers:
            del self._waiting[queue.backbone]
        queue.account.num_waiting -= 1
        self._note(queue)
        return queue

    def _note(self, queue: Queue) -> None:
        """It had waiting sequences just now."""
        self._last = queue.account
        queue.account.last = queue

    def _raise_level(self, admits: Callable[[str], bool]) -> None:
        """Update the counter to which tenants are lifted; it never falls."""
        firsts = {b: self._turns.first(b) for b in self._turns.backbones}
        served = [each[2].account.served for b, each in firsts.items() if each and admits(b)]
        served = served or [each[2].account.served for each in firsts.values() if each]
        if not served and self._last is not None:
            served = [self._last.served]
        self._level = least(served, self._level)

    def _prune(self) -> None:
        """Forget idle tenants whose counters would be lifted anyway when they come back.

        Only when there are twice as many as there were after the last time.
        """
        if len(self._accounts) < self._prune_at:
            return
        for name, account in list(self._accounts.items()):
            if account.is_idle and account.served <= self._level:
                del self._accounts[name]
        self._prune_at = max(2, 2 * len(self._accounts))


def _check(share: Share, running: Collection[Sequence]) -> None:
    count, pace = share.num_running, sum(1 / s.weight for s in running)
    assert count == len(running), f"{count} are counted, {len(running)} run"
    assert isclose(share.pace, pace, abs_tol=1e-6), f"pace {share.pace} of {count}, not {pace}"


def entry_price(sequence: Sequence, num_cached: int = 0) -> float:
    """What a sequence costs when it begins to run, before its weight: its prompt, once."""
    if sequence.num_preemptions:
        return 0.0
    return (sequence.prompt_len - num_cached) * PROMPT_PRICE + num_cached * CACHED_PRICE


def _begin(queue: Queue, sequence: Sequence) -> None:
    queue.begin(sequence)
    queue.account.begin(sequence)


def _end(queue: Queue, sequence: Sequence) -> None:
    queue.end(sequence)
    queue.account.end(sequence)


def _raise_level_of(account: Account, admits: Callable[[str], bool]) -> None:
    """The same as for tenants, for the queues of one."""
    active = [q for q in account.queues.values() if q.waiting]
    if not active and account.last is not None:
        active = [account.last]
    served = [q.served for q in active if admits(q.backbone)] or [q.served for q in active]
    account.level = least(served, account.level)


def _prune_queues(account: Account) -> None:
    for key, queue in list(account.queues.items()):
        if not queue.waiting and not queue.num_running and queue.served <= account.level:
            del account.queues[key]
