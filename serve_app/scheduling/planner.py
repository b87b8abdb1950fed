"""Decides what the next step computes, for whom. `scheduler.py` commits the results.

A step's tokens go, first, to urgent sequences: one to each that decodes, then to prompts that have
begun, then to new sequences, as far as there are tokens left. An interactive sequence whose turn it
is begins before prompts of standard ones go on. What is left goes to batch, in the same order.

A prompt that must be computed at once begins in a step that has tokens left for all of it. Those
that come after it wait as well, so it waits for prompts that have begun, and for no others.

If a sequence needs something that is not free, such as KV blocks, it takes everything that another
holds which comes after it in the order of `fairness/giving_way.py`. If there is none, it waits and
keeps what it has. If the next in turn cannot begin, because too many run or something is not free,
others give way to it where `giving_way.py` says so; else all wait for it. So the first in order
advances in every step, unless another begins that is more urgent or has had less, and everything
that runs ends.

A step that is planned ahead takes from nobody: if that is called for, nothing is planned before the
commit.
"""

from dataclasses import dataclass, field
from operator import attrgetter

from serve_app.scheduling.errors import PromptTooLong
from serve_app.scheduling.fairness.accounts import Queue, lead
from serve_app.scheduling.fairness.giving_way import Precedence
from serve_app.scheduling.fairness.lanes import Lanes
from serve_app.scheduling.fairness.queue import FairQueues
from serve_app.scheduling.plan import Chunk
from serve_app.scheduling.residency import Residency
from serve_app.scheduling.running import InTurn, Running
from serve_app.scheduling.sequence import Held, Sequence


@dataclass(slots=True)
class _Draft:
    """A plan in the making. number: of the next sequence that is added.

    takes: whether sequences may have to give way.   is_closed: nobody else begins, since something
    is short or the next in turn has to wait.
    """

    now: float
    number: int
    budget: int
    takes: bool
    chunks: dict[Sequence, Chunk] = field(default_factory=dict)
    is_closed: bool = False

    def has_tokens_for(self, sequence: Sequence) -> bool:
        """Whether it can have some of those that are left; all that it misses, if its prompt must
        be computed at once."""
        return self.budget >= (sequence.num_missing if sequence.prompt_at_once else 1)


class Planner:
    """Continues and starts sequences, within `step_tokens` and `max_sequences`."""

    def __init__(
        self,
        running: Running,
        lanes: Lanes,
        residency: Residency,
        *,
        step_tokens: int,
        max_sequences: int,
    ) -> None:
        self.num_preemptions = 0
        self._running = running
        self._lanes = lanes
        self._residency = residency
        self._step_tokens = step_tokens
        self._max_sequences = max_sequences

    @property
    def longest_at_once(self) -> int:
        """The longest prompt, in tokens, that fits into a step in which as many sequences decode as
        may run: so answers cannot keep it waiting.
        """
        return max(self._step_tokens - self._max_sequences, 1)

    def require(self, sequence: Sequence) -> None:
        """Raises PromptTooLong if its turn might never come."""
        if sequence.prompt_at_once and sequence.prompt_len > self.longest_at_once:
            raise PromptTooLong(sequence.id, sequence.prompt_len, self.longest_at_once)

    def goes_on(self) -> bool:
        """Whether nobody has to give way, or is recomputed, for all running ones to continue."""
        budget, lengths = self._step_tokens, []
        for lane in self._running.in_turn():
            for sequence in lane.decodes + lane.prompts:
                lengths.append((sequence, min(sequence.num_missing, budget)))
                budget -= lengths[-1][1]
        anew = any(sequence.starts_anew for sequence in self._running)
        return not anew and self._running.fit(lengths) and not self._must_give_way()

    def clear_draining(self) -> bool:
        """Batch gives way on places that others wait for; whether there was any."""
        cleared = self._on_draining()
        for sequence in cleared:
            self.put_back(sequence)
        return bool(cleared)

    def plan(self, now: float, next_number: int, *, takes: bool) -> dict[Sequence, Chunk]:
        """The chunks, by place, then by arrival. takes: whether sequences may have to give way."""
        draft = _Draft(now, next_number, self._step_tokens, takes)
        urgent, batch = self._running.in_turn()
        self._plan_lane(self._lanes.urgent, urgent, draft)
        self._plan_lane(self._lanes.batch, batch, draft)
        planned = [s for s in self._running if s in draft.chunks]
        planned.sort(key=attrgetter("place"))  # keeps the order within a place
        return {s: draft.chunks[s] for s in planned}

    def check(self) -> None:
        """Assert that not too many run."""
        assert len(self._running) <= self._max_sequences, "too many sequences run"

    def precedence(self) -> Precedence:
        """The order in which running sequences keep what they have."""
        return Precedence(self._lanes, self._running)

    def _plan_lane(self, queues: FairQueues, running: InTurn, draft: _Draft) -> None:
        lacking = []
        for sequence in running.decodes:
            if draft.budget and sequence.place is not None:
                held = self._running.has(sequence, 1)
                if held is None:
                    lacking.append(sequence)
                else:
                    self._plan_chunk(sequence, 1, held, draft)
        if not self._running.fit((sequence, 1) for sequence in lacking):
            lacking = self._sorted(lacking)  # otherwise it is all the same who is first
        for sequence in lacking:
            self._continue(sequence, draft)
        for sequence in self._sorted(running.prompts):
            self._admit(queues, draft, before=sequence)
            self._continue(sequence, draft)
        self._admit(queues, draft)

    def _sorted(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of them that run still, the last to give way first."""
        running = [s for s in sequences if s.place is not None]
        return self.precedence().sorted(running) if len(running) > 1 else running

    def _continue(self, sequence: Sequence, draft: _Draft) -> None:
        """Plan what there is room for; if there is none, take what the last in order holds."""
        if sequence.place is None or not draft.has_tokens_for(sequence):
            return
        wanted = min(sequence.num_missing, draft.budget)
        held = self._running.has(sequence, wanted)
        if held is None:
            while not (room := self._running.room(sequence)):
                draft.is_closed = True
                last = self.precedence().last() if draft.takes else sequence
                if last is sequence:
                    return
                self._take_from(last, draft)
            wanted = min(sequence.num_missing, draft.budget)
            if room < wanted:
                draft.is_closed = True
                wanted = room
            held = self._running.take(sequence, wanted)
        self._plan_chunk(sequence, wanted, held, draft)

    def _take_from(self, sequence: Sequence, draft: _Draft) -> None:
        dropped = draft.chunks.pop(sequence, None)
        if dropped is not None:
            draft.budget += len(dropped.tokens)
        self.put_back(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Take everything it holds. It waits again, and will recompute every token it knows."""
        self._running.release(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._lanes.of(sequence).put_back(sequence)

    def _admit(self, queues: FairQueues, draft: _Draft, before: Sequence | None = None) -> None:
        """Start new sequences, the least served tenant first, while budget and room last.

        before: a prompt that has begun; only what goes before it. One starts if there is enough
        for all tokens it knows. If the next in turn does not fit, the others wait for it: small
        ones do not overtake it.
        """
        while draft.budget and not draft.is_closed:
            queue = self._next(queues)
            if queue is None or (before is not None and not self._goes_before(queue, before)):
                return
            head = queue.head
            if not draft.has_tokens_for(head):
                return
            if not self._starts(head) and draft.takes:
                for sequence in self._making_room(head):
                    self._take_from(sequence, draft)
            if not self._starts(head):
                draft.is_closed = True
                return
            self._running.begin(head)
            queues.admit(head)
            self._residency.admitted(head.backbone, draft.now, draft.number)
            length = min(head.num_missing, draft.budget)
            self._plan_chunk(head, length, self._running.take(head, length), draft)

    def _next(self, queues: FairQueues) -> Queue | None:
        """The queue whose turn it is; batch begins nothing beside what waits for a load."""
        begins = queues is self._lanes.urgent or not self._residency.is_early
        first = queues.next(self._residency.admits) if begins else None
        return first or queues.next(self._residency.admits_early)

    def _goes_before(self, queue: Queue, prompt: Sequence) -> bool:
        """Whether the next in turn is more urgent, and still is with what its tenant has had."""
        if queue.head.service_class.order >= prompt.service_class.order:
            return False
        return queue.turn[0] < self._lanes.queue_of(prompt).account.served - lead(prompt)

    def _starts(self, head: Sequence, without: tuple[Sequence, ...] = ()) -> bool:
        """Whether it may begin, once some have given way."""
        few = len(self._running) - len(without) < self._max_sequences
        return few and self._running.fits(head, without)

    def _making_room(self, head: Sequence) -> list[Sequence]:
        """Who gives way to the next in turn, which cannot begin as it is."""
        return self.precedence().making_room(head, lambda gone: self._starts(head, tuple(gone)))

    def _must_give_way(self) -> bool:
        """Whether a running sequence has to, so that another begins."""
        if self._on_draining():
            return True
        queue = self._next(self._lanes.urgent) or self._next(self._lanes.batch)
        if queue is None or self._starts(queue.head):
            return False
        return bool(self._making_room(queue.head))

    def _on_draining(self) -> list[Sequence]:
        """What runs of batch on places that others wait for."""
        draining = self._residency.draining
        if not draining:
            return []
        return [s for s in self._running if s.is_batch and s.backbone in draining]

    def _plan_chunk(self, sequence: Sequence, length: int, held: Held, draft: _Draft) -> None:
        draft.budget -= length
        draft.chunks[sequence] = self._running.advance(sequence, length, held)
