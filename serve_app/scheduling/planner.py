"""Decides what the next step computes, for whom. `scheduler.py` commits the results.

*Rank* is priority, then arrival. If a sequence needs something that is not free, such as KV blocks,
it takes everything that the sequence with the lowest rank holds, if that rank is below its own.
Otherwise it waits and keeps what it has. So the first in rank advances in every step, and
everything that runs ends. A step that is planned ahead takes from nobody: if something is short,
nothing is planned before the commit.
"""

from dataclasses import dataclass, field
from operator import attrgetter

from serve_app.scheduling.plan import Chunk
from serve_app.scheduling.queue import FairQueues
from serve_app.scheduling.residency import Residency
from serve_app.scheduling.running import Running
from serve_app.scheduling.sequence import Sequence


@dataclass(slots=True)
class _Draft:
    """A plan in the making. `is_short`: a running sequence got less room than it needs."""

    budget: int
    chunks: dict[Sequence, Chunk] = field(default_factory=dict)
    is_short: bool = False


class Planner:
    """Continues and starts sequences, within `step_tokens` and `max_sequences`."""

    def __init__(
        self,
        running: Running,
        queues: FairQueues,
        residency: Residency,
        *,
        step_tokens: int,
        max_sequences: int,
    ) -> None:
        self.num_preemptions = 0
        self._running = running
        self._queues = queues
        self._residency = residency
        self._step_tokens = step_tokens
        self._max_sequences = max_sequences

    def goes_on(self) -> bool:
        """Whether all running ones can get what their next tokens need, and none is recomputed."""
        budget, lengths = self._step_tokens, []
        for sequence, missing in self._running.in_turn():
            lengths.append((sequence, min(missing, budget)))
            budget -= lengths[-1][1]
        anew = any(sequence.starts_anew for sequence in self._running)
        return not anew and self._running.fit(lengths)

    def plan(self, now: float, next_number: int) -> dict[Sequence, Chunk]:
        """The chunks, by place, then by arrival."""
        draft = _Draft(self._step_tokens)
        self._continue_running(draft)
        if not draft.is_short:
            self._admit(draft, now, next_number)
        planned = [s for s in self._running if s in draft.chunks]
        planned.sort(key=attrgetter("arrival"))
        planned.sort(key=attrgetter("place"))  # keeps the order within a place
        return {s: draft.chunks[s] for s in planned}

    def check(self) -> None:
        """Assert that not too many run."""
        assert len(self._running) <= self._max_sequences, "too many sequences run"

    def _continue_running(self, draft: _Draft) -> None:
        """Plan one token for each decoding sequence, then chunks of prompts, in order of rank."""
        for sequence, missing in self._running.in_turn():
            if draft.budget and sequence.place is not None:
                self._continue(sequence, missing, draft)

    def _continue(self, sequence: Sequence, missing: int, draft: _Draft) -> None:
        """Plan what there is room for; if there is none, take what the last in rank holds."""
        wanted = min(missing, draft.budget)
        held = self._running.has(sequence, wanted)
        if held is None:
            while not (room := self._running.room(sequence)):
                draft.is_short = True
                last = self._running.last
                if last is sequence:
                    return
                self._preempt(last, draft)
            wanted = min(missing, draft.budget)
            if room < wanted:
                draft.is_short = True
                wanted = room
            held = self._running.take(sequence, wanted)
        draft.budget -= wanted
        draft.chunks[sequence] = self._running.advance(sequence, wanted, held)

    def _preempt(self, sequence: Sequence, draft: _Draft) -> None:
        """Take everything it holds. It waits again, and will recompute every token it knows."""
        dropped = draft.chunks.pop(sequence, None)
        if dropped is not None:
            draft.budget += len(dropped.tokens)
        self._running.release(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._queues.put_back(sequence)

    def _admit(self, draft: _Draft, now: float, next_number: int) -> None:
        """Start new sequences, the least served tenant first, while budget and room last.

        One starts if there is enough for all tokens it knows. Those that run already have what they
        need; otherwise no budget is left, or the step is short. If the next in turn does not fit,
        the others wait for it: small ones do not overtake it.
        """
        while draft.budget and len(self._running) < self._max_sequences:
            queue = self._queues.next(self._residency.admits)
            queue = queue or self._queues.next(self._residency.admits_early)
            if queue is None:
                return
            sequence = queue.head
            if not self._running.fits(sequence):
                return
            self._running.begin(sequence)
            self._queues.admit(sequence)
            self._residency.admitted(sequence.backbone, now, next_number)
            length = min(sequence.num_missing, draft.budget)
            held = self._running.take(sequence, length)
            draft.budget -= length
            draft.chunks[sequence] = self._running.advance(sequence, length, held)
