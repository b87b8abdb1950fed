"""Decides what each step computes, for whom. The engine's runner carries out the plan.

There is no prefill phase and no decode phase: computed tokens catch up with known tokens. A step
is planned, carried out and committed. The next may be planned while it runs, on the assumption that
no token stops a sequence before its maximum length. If one does, its row of the next step was
computed for nothing. Adding, aborting and the end of a load are allowed at any moment, even between
plan and commit. Not thread-safe.

`planner.py` decides who computes what; only `needs.py` knows what sequences need.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from serve_app.scheduling.deadlines import Deadlines
from serve_app.scheduling.errors import DuplicateSequence
from serve_app.scheduling.events import Continued, Finished, SequenceEvent
from serve_app.scheduling.fairness.lanes import Lanes
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.needs import Ledger, Needs
from serve_app.scheduling.outstanding import Outstanding
from serve_app.scheduling.plan import BackboneCopy, Chunk, StepPlan
from serve_app.scheduling.planner import Planner
from serve_app.scheduling.prefix_cache import PrefixCache
from serve_app.scheduling.residency import Residency
from serve_app.scheduling.running import Running
from serve_app.scheduling.sequence import ModelKey, Sequence


class Scheduler:
    """Sequences of many models on few places, within a token budget per step.

    At most `max_sequences` run at once, and no more than `step_tokens`, so that each can have a
    token in every step. `needs`: a ledger for each kind of need. `cache`: what sequences that start
    alike share; None if nothing is shared. `longest_at_once`: the longest prompt, in tokens, that
    one step can compute whatever runs. residency.py states the longest wait of a model that is not
    resident. A sequence of batch that has not ended `max_batch_wait_s` after it was added is a
    standard one from then on.
    """

    def __init__(
        self,
        needs: Iterable[Ledger],
        places: PlaceLedger,
        *,
        step_tokens: int,
        max_sequences: int,
        max_model_wait_s: float,
        min_residency_s: float = 0.0,
        max_batch_wait_s: float,
        cache: PrefixCache | None = None,
    ) -> None:
        waits = max_model_wait_s, max_batch_wait_s
        if step_tokens < 1 or max_sequences < 1 or not min(waits) >= 0:
            raise ValueError(
                f"step_tokens {step_tokens} and max_sequences {max_sequences} must be at least 1,"
                f" max_model_wait_s {max_model_wait_s} and max_batch_wait_s {max_batch_wait_s}"
                " not negative"
            )
        self.places = places
        self.num_hits = 0
        self.num_misses = 0
        self._lanes = Lanes(max_batch_wait_s)
        self.residency = Residency(
            places, self._lanes, max_wait_s=max_model_wait_s, min_residency_s=min_residency_s
        )
        self._sequences: dict[str, Sequence] = {}
        self._deadlines = Deadlines()
        self._needs = Needs(needs)
        self._cache = cache
        self._running = Running(self._needs, places, cache)
        self._planner = Planner(
            self._running,
            self._lanes,
            self.residency,
            step_tokens=step_tokens,
            max_sequences=min(max_sequences, step_tokens),
        )
        self.longest_at_once = self._planner.longest_at_once
        self._number = 0
        self._now = 0.0
        self._outstanding: list[Outstanding] = []

    # What comes in.

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue a new sequence.

        All or nothing: DuplicateSequence if its id is in use, NeverFits if prompt and answer need
        more of a kind than exists, PromptTooLong if one step must compute more than it can.
        """
        if sequence.id in self._sequences:
            raise DuplicateSequence(f"sequence {sequence.id!r} is waiting or running already")
        self._needs.require(sequence)
        self._planner.require(sequence)
        self._advance_clock(now)
        sequence.number = self._number
        self._number += 1
        if self.places.is_resident(sequence.backbone):
            self.num_hits += 1
        else:
            self.num_misses += 1
        self._sequences[sequence.id] = sequence
        self._deadlines.add(sequence)
        self._lanes.add(sequence, self.residency.admits, self._now)
        if not sequence.is_batch:
            self.residency.want(sequence.backbone, self._now)

    def expire(self, now: float) -> list[str]:
        """End the sequences whose deadline has come, waiting or running; their ids."""
        missed = self._deadlines.missed(now)
        for sequence in missed:
            self._end(sequence)
        return [sequence.id for sequence in missed]

    def abort(self, sequence_id: str) -> bool:
        """End a sequence; what it holds is free at once. False if none has that id."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            return False
        self._end(sequence)
        return True

    def recompute(self, sequence_ids: Collection[str]) -> None:
        """Let running sequences give back what they hold, and compute all they know again.

        What plans that are not committed give for them does not count.
        """
        again = [s for s in list(self._running) if s.id in sequence_ids]
        for sequence in again:
            self._planner.put_back(sequence)
        self._outstanding = [plan.without(again) for plan in self._outstanding]

    def clear(self) -> None:
        """End every sequence, and forget plans that are not committed. No step may be running."""
        for sequence in list(self._sequences.values()):
            self._end(sequence)
        self._outstanding.clear()

    def arriving(self, backbone: str) -> None:
        """A step may wait for each tensor of a load. ValueError if it is not loading."""
        self.places.arriving(backbone)

    def loaded(self, backbone: str) -> None:
        """The copy of a load is complete. ValueError if it is not loading."""
        self.places.loaded(backbone)

    def load_failed(self, backbone: str) -> list[str]:
        """The copy failed: its place is empty, and all sequences that need it end.

        Returns their ids, in order of arrival. ValueError if it is not loading.
        """
        lost = []
        if backbone in self.places.loading:
            lost = [s for s in self._sequences.values() if s.backbone == backbone]
        for sequence in lost:
            self._end(sequence)
        self.residency.load_failed(backbone)
        return [sequence.id for sequence in lost]

    def prefetch(self, backbone: str) -> BackboneCopy | None:
        """Start loading a backbone that nothing waits for into an empty place that nobody needs.

        None if there is no such place, or it already has one.
        """
        return self.residency.prefetch(backbone)

    def drop_backbone(self, backbone: str) -> bool:
        """Empty the place of a backbone that is not needed any more.

        True if it has no place now; False, with nothing changed, while it is loading or a sequence
        needs it.
        """
        return self.residency.forget(backbone)

    def forget(self, release: str) -> None:
        """A release is gone: no longer share what its sequences have computed."""
        if self._cache is not None:
            self._cache.forget(release)

    # One step.

    def schedule(self, now: float) -> StepPlan:
        """Plan the next step. A plan with chunks must be committed before the next is made.

        A plan may have loads and no chunks. If there is work, a plan has neither only while a load
        is running. RuntimeError if the last plan is not committed.
        """
        if self._outstanding:
            raise RuntimeError("the last plan has not been committed")
        self._advance_clock(now)
        self._promote()
        return self._make_plan(takes=True)

    def schedule_ahead(self, now: float) -> StepPlan:
        """Plan the step after one that is not committed yet, to be carried out after it.

        An empty plan, with nothing changed, if that takes more than simply continuing: if something
        is short, or a sequence must be recomputed. RuntimeError unless exactly one plan is not
        committed.
        """
        if len(self._outstanding) != 1:
            raise RuntimeError(f"{len(self._outstanding)} plans have not been committed, not one")
        self._advance_clock(now)
        self._promote()
        return self._make_plan(takes=False) if self._planner.goes_on() else StepPlan()

    def commit(
        self, plan: StepPlan, sampled: Mapping[str, int], now: float, over: Collection[str] = ()
    ) -> list[SequenceEvent]:
        """Commit the results of a step; `sampled` has the token of each chunk that samples, `over`
        the sequences to which nothing may be added after it.

        Skips sequences that have ended since the plan. Returns events in the order of the plan. A
        plan without chunks needs no commit. All or nothing: RuntimeError if this is not the first
        plan that is not committed, ValueError if a token is missing.
        """
        if not plan.chunks:
            return []
        if not self._outstanding or plan is not self._outstanding[0].plan:
            raise RuntimeError("this is not the plan to commit, or it is committed already")
        known, both = self._sequences, self._outstanding[0].counted
        live = [(chunk, s) for chunk, s in both if known.get(chunk.sequence) is s]
        missing = [s.id for chunk, s in live if chunk.samples and chunk.sequence not in sampled]
        if missing:
            raise ValueError(f"no token was sampled for {missing}")
        self._advance_clock(now)
        for name in over:
            known[name].is_over = True
        del self._outstanding[0]
        events = [self._commit_chunk(chunk, s, sampled) for chunk, s in live]
        return [event for event in events if event is not None]

    # What there is.

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._sequences) - len(self._running)

    @property
    def num_preemptions(self) -> int:
        """How often a running sequence had to give up what it held."""
        return self._planner.num_preemptions

    def num_running_by_model(self) -> dict[ModelKey, int]:
        """Models with running sequences."""
        running: Counter[ModelKey] = Counter()
        for queue in self._lanes:
            if queue.num_running:
                running[queue.model] += queue.num_running
        return dict(running)

    def num_waiting_by_model(self) -> dict[ModelKey, int]:
        """Models with waiting sequences."""
        return dict(Counter(s.model for q in self._lanes for s in q.waiting))

    @property
    def sequences(self) -> Iterable[Sequence]:
        """All that wait or run, in order of arrival."""
        return self._sequences.values()

    def count(self, model: ModelKey) -> int:
        """How many sequences of this model wait or run."""
        return sum(len(q.waiting) + q.num_running for q in self._lanes if q.model == model)

    def check(self) -> None:
        """Assert every invariant that ties sequences, needs, places and queues together."""
        self._running.check()
        self._planner.check()
        self.residency.check()
        waiting = [s for q in self._lanes for s in q.waiting]
        known = sorted(s.id for s in [*waiting, *self._running])
        assert known == sorted(self._sequences), f"queues {known}, index {list(self._sequences)}"
        assert len(self._outstanding) <= 2, "too many plans are not committed"
        for s in waiting:
            held = (s.held, s.num_computed, s.num_pending, s.place)
            assert held == ({}, 0, 0, None), f"{s.id} waits and holds {held}"
        for s in self._running:
            sampling = sum(plan.samples(s) for plan in self._outstanding)
            assert s.num_pending == sampling, f"{s.id}: {s.num_pending} pending, {sampling} sampled"
        self._lanes.check(self._running)

    # How.

    def _advance_clock(self, now: float) -> None:
        """If the clock goes back, as from a caller in another thread, it stands still here."""
        self._now = max(self._now, now)

    def _promote(self) -> None:
        """Sequences of batch that have waited too long are standard ones from now on."""
        for sequence in self._lanes.promote(self.residency.admits, self._now):
            if sequence.place is None:
                self.residency.want(sequence.backbone, self._now)

    def _make_plan(self, *, takes: bool) -> StepPlan:
        loads = self.residency.begin_loads(self._now, self._number)
        if takes and self._planner.clear_draining():
            loads += self.residency.begin_loads(self._now, self._number)
        planned = self._planner.plan(self._now, self._number, takes=takes)
        plan = StepPlan(tuple(planned.values()), loads)
        if planned:
            self._outstanding.append(Outstanding(plan, tuple(planned)))
        return plan

    def _commit_chunk(
        self, chunk: Chunk, sequence: Sequence, sampled: Mapping[str, int]
    ) -> SequenceEvent | None:
        end = chunk.end
        if self._cache is not None:
            self._cache.note_computed(sequence, chunk.start, end)
        if sequence.num_prompt_kept < sequence.prompt_len:
            kept = min(end, sequence.prompt_len)
            sequence.num_prompt_kept = max(sequence.num_prompt_kept, kept)
        if chunk.samples:
            return self._commit_token(sequence, sampled[sequence.id])
        if sequence.max_tokens or end < sequence.prompt_len:
            return None
        self._end(sequence)
        return Finished(sequence.id, None, "length")

    def _commit_token(self, sequence: Sequence, token: int) -> SequenceEvent:
        sequence.tokens.append(token)
        sequence.num_pending -= 1
        self._lanes.of(sequence).charge_answer(sequence)
        reason = sequence.finish_reason()
        if reason is None:
            if sequence.starts_anew:
                sequence.num_computed = 0
            return Continued(sequence.id, token)
        self._end(sequence)
        return Finished(sequence.id, token, reason)

    def _end(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running."""
        del self._sequences[sequence.id]
        self._deadlines.drop(sequence)
        self._lanes.end(sequence)
        if sequence.place is None:
            self.residency.unwant(sequence.backbone)
        else:
            self._running.release(sequence)
