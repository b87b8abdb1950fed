"""A strict stand-in for the engine: KV memory by block and position, places, a toy model.

Nothing is forgiven: reading a position that was not written for the same model, tenant and tokens
up to it, computing on a place that does not hold the backbone, writing where another chunk reads.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

from hypothesis import settings

from serve_app.scheduling.events import Continued, Finished, SequenceEvent
from serve_app.scheduling.ledgers.blocks import BLOCKS, BlockLedger
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.ledgers.state_rows import STATE_ROWS, StateLedger
from serve_app.scheduling.needs import Ledger
from serve_app.scheduling.plan import BackboneCopy, Chunk, StepPlan
from serve_app.scheduling.prefix_cache import PrefixCache
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import ModelKey, Sequence
from serve_app.service_class import ServiceClass

VOCABULARY = 13

REPEATABLE = settings(derandomize=True, deadline=None, database=None, max_examples=150)


def next_token(model: ModelKey, tokens: Iterable[int]) -> int:
    """What the toy model says next: depends on the model, on every token and on their order."""
    state = sum(ord(letter) for letter in "".join(model))
    for token in tokens:
        state = (state * 31 + token + 7) % 10_007
    return state % VOCABULARY


def alone(sequence: Sequence) -> tuple[list[int], str]:
    """The tokens that the toy model generates when nothing else is there, and why it ends."""
    tokens = list(sequence.prompt)
    generated: list[int] = []
    while len(generated) < sequence.max_tokens:
        token = next_token(sequence.model, tokens)
        tokens.append(token)
        generated.append(token)
        if token in sequence.stop_token_ids and len(generated) > sequence.min_tokens:
            return generated, "stop"
    return generated, "length"


def blocks_of(holder: Sequence | Chunk) -> list[int]:
    """The KV blocks that a sequence or a chunk has."""
    return list(holder.held.get(BLOCKS, ()))


@dataclass(frozen=True)
class Written:
    """What is in memory at a position: keys and values that depend on all this."""

    model: ModelKey
    readers: str
    tokens: tuple[int, ...]


@dataclass
class FakeRunner:
    """Obeys plans. `backbones` says which backbone each model needs; `readers` who may read what
    a sequence writes: its tenant, or it alone."""

    block_size: int
    num_places: int
    backbones: dict[ModelKey, str] = field(default_factory=dict)
    readers: dict[str, str] = field(default_factory=dict)
    memory: dict[tuple[int, int], Written] = field(default_factory=dict)
    states: dict[int, Written] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    copying: list[BackboneCopy] = field(default_factory=list)
    arriving: dict[int, str] = field(default_factory=dict)

    def begin(self, loads: Iterable[BackboneCopy]) -> None:
        for load in loads:
            assert 0 <= load.place < self.num_places
            assert load.backbone in self.backbones.values()
            assert load.place not in [other.place for other in self.copying]
            self.places.pop(load.place, None)
            self.copying.append(load)

    def let_in(self, index: int) -> str:
        """Have steps wait for a copy, from now on."""
        load = self.copying[index % len(self.copying)]
        self.arriving[load.place] = load.backbone
        return load.backbone

    def finish_copy(self, index: int) -> str:
        load = self.copying.pop(index % len(self.copying))
        self.arriving.pop(load.place, None)
        self.places[load.place] = load.backbone
        return load.backbone

    def fail_copy(self, index: int) -> str:
        load = self.copying.pop(index % len(self.copying))
        self.arriving.pop(load.place, None)
        return load.backbone

    def execute(self, plan: StepPlan, before: Mapping[str, int]) -> dict[str, int]:
        """Write every chunk, then let every chunk read all it attends to.

        before: what the step before sampled, of which pending chunks take their token.
        """
        self.begin(plan.loads)
        tables = Counter(block for chunk in plan.chunks for block in blocks_of(chunk))
        written = [block for chunk in plan.chunks for block in self.written(chunk)]
        assert all(tables[block] == 1 for block in written), "two chunks share what one writes"
        for chunk in plan.chunks:
            self._write(chunk, (before[chunk.sequence],) if chunk.pending else chunk.tokens)
        read = {chunk.sequence: self._read(chunk) for chunk in plan.chunks}
        sampling = [chunk for chunk in plan.chunks if chunk.samples]
        return {c.sequence: next_token(c.model, read[c.sequence]) for c in sampling}

    def _write(self, chunk: Chunk, tokens: tuple[int, ...]) -> None:
        assert 0 < len(tokens) == len(chunk.tokens)
        held = self.arriving.get(chunk.place, self.places.get(chunk.place))
        assert held == self.backbones[chunk.model], "not resident there"
        before = self.memory[self._slot(chunk, chunk.start - 1)].tokens if chunk.start else ()
        for row in chunk.held.get(STATE_ROWS, ()):
            held_state = Written(chunk.model, self.readers[chunk.sequence], before)
            assert not chunk.start or self.states[row] == held_state, "another's state was read"
            self.states[row] = replace(held_state, tokens=(*before, *tokens))
        for position, token in enumerate(tokens, chunk.start):
            block, offset = self._slot(chunk, position)
            if offset == 0:
                for stale in range(self.block_size):
                    self.memory.pop((block, stale), None)
            before = (*before, token)
            self.memory[block, offset] = Written(chunk.model, self.readers[chunk.sequence], before)

    def _read(self, chunk: Chunk) -> tuple[int, ...]:
        tokens = self.memory[self._slot(chunk, chunk.end - 1)].tokens
        for position in range(chunk.end):
            wanted = Written(chunk.model, self.readers[chunk.sequence], tokens[: position + 1])
            assert self.memory[self._slot(chunk, position)] == wanted, "another's KV was read"
        assert len(tokens) == chunk.end
        return tokens

    def written(self, chunk: Chunk) -> tuple[int, ...]:
        """The blocks that a chunk writes to."""
        return chunk.held[BLOCKS][chunk.start // self.block_size :]

    def _slot(self, chunk: Chunk, position: int) -> tuple[int, int]:
        return chunk.held[BLOCKS][position // self.block_size], position % self.block_size


class World:
    """A scheduler and its runner, with everything that happened, checked after each act.

    ahead: `step` keeps a step in flight where it can. under_way: plans and what they sampled.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        num_places: int = 2,
        step_tokens: int = 16,
        max_sequences: int = 8,
        max_model_wait_s: float = 10.0,
        min_residency_s: float = 0.0,
        max_batch_wait_s: float = 1e9,
        ahead: bool = False,
        secret: bytes | None = None,
        num_states: int | None = None,
    ) -> None:
        """num_states: rows of state; None: sequences need none."""
        self.ahead = ahead
        self.step_tokens = step_tokens
        self.max_model_wait_s = max_model_wait_s
        self.blocks = BlockLedger(num_blocks, block_size)
        self.needs: list[Ledger] = [self.blocks]
        if num_states is not None:
            self.needs.append(StateLedger(num_states))
        self.places = PlaceLedger(num_places)
        self.scheduler = Scheduler(
            self.needs,
            self.places,
            step_tokens=step_tokens,
            max_sequences=max_sequences,
            max_model_wait_s=max_model_wait_s,
            min_residency_s=min_residency_s,
            max_batch_wait_s=max_batch_wait_s,
            cache=None if secret is None else PrefixCache(self.blocks, secret),
        )
        self.runner = FakeRunner(block_size, num_places)
        self.now = 0.0
        self.under_way: list[tuple[StepPlan, dict[str, int]]] = []
        self.sequences: dict[str, Sequence] = {}
        self.generated: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self.kept: dict[str, set[int]] = {}
        self.running: set[str] = set()
        self.num_preemptions = 0
        """Before the step that was planned last."""

    def add(
        self,
        prompt: Items[int] | int,
        model: str = "a",
        max_tokens: int = 3,
        *,
        backbone: str | None = None,
        tenant: str = "default",
        weight: float = 1.0,
        priority: int = 0,
        service_class: ServiceClass = ServiceClass.STANDARD,
        stop: Iterable[int] = (),
        min_tokens: int = 0,
        keep: bool = False,
        release: str = "r1",
        recompute_at: int | None = None,
        by_length: bool = False,
        deadline: float | None = None,
        at_once: bool = False,
    ) -> Sequence:
        """A sequence whose prompt is given, or made of that many tokens."""
        number = len(self.sequences)
        tokens = (
            [(number + i) % VOCABULARY for i in range(prompt)]
            if isinstance(prompt, int)
            else prompt
        )
        sequence = Sequence(
            id=f"s{number}",
            model=(release, model),
            backbone=backbone or f"backbone of {model}",
            prompt=tuple(tokens),
            max_tokens=max_tokens,
            tenant=tenant,
            weight=weight,
            priority=priority,
            service_class=service_class,
            arrival=self.now,
            stop_token_ids=frozenset(stop),
            min_tokens=min_tokens,
            keep_prompt_logits=keep,
            recompute_at=recompute_at,
            by_length=by_length,
            deadline=deadline,
            chunk_tokens=2 if at_once else None,
            prompt_at_once=at_once,
        )
        self.runner.backbones[sequence.model] = sequence.backbone
        self.runner.readers[sequence.id] = tenant if sequence.is_alike else sequence.id
        self.scheduler.add(sequence, self.now)
        self.sequences[sequence.id] = sequence
        self.generated[sequence.id] = []
        self.kept[sequence.id] = set()
        self.scheduler.check()
        return sequence

    def begin_step(self) -> StepPlan:
        """Plan and execute; what may be said of every plan is asserted here."""
        before = self._in_order()
        plan = self.scheduler.schedule(self.now)
        self._assert_orderly(plan, before)
        if not plan.chunks and not plan.loads and self.scheduler.has_work:
            assert self.runner.copying, "there is work, and nothing is under way"
        self._execute(plan, {})
        return plan

    def begin_ahead(self) -> StepPlan:
        """Plan and execute the step after the one under way."""
        before = self._in_order()
        goes_on = self.scheduler._planner.goes_on()
        state = self._holdings()
        plan = self.scheduler.schedule_ahead(self.now)
        if goes_on:
            self._assert_orderly(plan, before)
            unchanged = {i: held for i, held in self._holdings().items() if i in state}
            assert unchanged.keys() == state.keys(), "somebody was preempted ahead"
        else:
            assert plan == StepPlan()
            assert self._holdings() == state, "an empty plan changed something"
        if plan.chunks:
            self._execute(plan, self.under_way[0][1])
        else:
            self.runner.begin(plan.loads)
        return plan

    @property
    def num_used(self) -> int:
        """Units in use, of all kinds."""
        return sum(ledger.num_units - ledger.num_free for ledger in self.needs)

    def _holdings(self) -> dict[str, tuple[int, int]]:
        """Of those that run: how much is computed, and how many blocks they have."""
        running = self.scheduler._running
        return {s.id: (s.num_computed, len(blocks_of(s))) for s in running}

    def _in_order(self) -> list[str]:
        """Those that run; the first is the last to give way."""
        self.num_preemptions = self.scheduler.num_preemptions
        running = [self.sequences[name] for name in self.running]
        return [s.id for s in self.scheduler._planner.precedence().sorted(running)]

    def _assert_orderly(self, plan: StepPlan, before: list[str]) -> None:
        self.scheduler.check()
        assert plan.num_tokens <= self.step_tokens, "the budget was exceeded"
        ids = [chunk.sequence for chunk in plan.chunks]
        unready = [
            s for s in map(self.sequences.__getitem__, before) if s.id in ids or s.num_missing
        ]
        begun = [self.sequences[name] for name in ids if name not in before]
        self._assert_busy(plan)
        if unready and unready[0].id not in ids:
            self._assert_has_made_room(unready[0], begun)
        order = [(c.place, self.sequences[c.sequence].arrival) for c in plan.chunks]
        assert order == sorted(order)
        for chunk in plan.chunks:
            sequence = self.sequences[chunk.sequence]
            assert chunk.end <= sequence.num_positions, "more than is needed"
            if sequence.prompt_at_once:
                at_once = 1 if chunk.start else sequence.prompt_len
                assert len(chunk.tokens) == at_once, (
                    "a prompt in parts, or tokens that come together"
                )
        for sequence in begun:
            backbone = sequence.backbone
            assert backbone not in self.scheduler.residency.draining
            if self.places.is_arriving(backbone):
                assert self.places.pinned == (backbone,), "others wait for what arrives"

    def _assert_has_made_room(self, first: Sequence, begun: Items[Sequence]) -> None:
        """The first in order stands still only for one that begins, or as batch for a load."""
        is_cleared = first.is_batch and not self.places.is_resident(first.backbone)
        is_less = any(s.service_class.order < first.service_class.order for s in begun)
        gave_way = first.place is None and begun
        assert is_cleared or is_less or gave_way, f"{first.id} is the first, and stands still"

    def _assert_busy(self, plan: StepPlan) -> None:
        """Work is conserved: where tokens are left and nothing is short, the next cannot begin."""
        running, planner = self.scheduler._running, self.scheduler._planner
        is_short = self.scheduler.num_preemptions > self.num_preemptions
        is_short |= any(s.num_missing for s in running)
        if is_short or plan.num_tokens == self.step_tokens:
            return
        lanes = self.scheduler._lanes
        queue = planner._next(lanes.urgent) or planner._next(lanes.batch)
        if queue is not None and queue.head.prompt_at_once:
            is_short = plan.num_tokens + queue.head.num_missing > self.step_tokens
        can_begin = queue is not None and not is_short and planner._starts(queue.head)
        assert not can_begin, "the next could have begun"

    def _execute(self, plan: StepPlan, before: Mapping[str, int]) -> None:
        written = [block for chunk in plan.chunks for block in self.runner.written(chunk)]
        known = [block for block in written if self.blocks._keys[block] is not None]
        assert not known, f"blocks {known} are known and written to"
        sampled = self.runner.execute(plan, before)
        for chunk in plan.chunks:
            if chunk.keep_prompt_logits:
                end = min(chunk.end, chunk.prompt_len)
                self.kept[chunk.sequence].update(range(chunk.start, end))
        self.running = {i for i, s in self.sequences.items() if s.place is not None}
        self.under_way.append((plan, sampled))

    def end_step(self) -> list[SequenceEvent]:
        events = self.scheduler.commit(*self.under_way.pop(0), self.now)
        self.now += 1.0
        self.scheduler.check()
        for event in events:
            if event.token is not None:
                self.generated[event.id].append(event.token)
            if isinstance(event, Finished):
                self._finished(event)
            else:
                assert isinstance(event, Continued)
        return events

    def step(self) -> list[SequenceEvent]:
        if not self.under_way:
            self.begin_step()
        if self.ahead and self.can_plan_ahead:
            self.begin_ahead()
        return self.end_step()

    @property
    def can_plan_ahead(self) -> bool:
        return len(self.under_way) == 1 and bool(self.under_way[0][0].chunks)

    def abort(self, sequence_id: str) -> bool:
        known = self.scheduler.abort(sequence_id)
        self.running.discard(sequence_id)
        self.scheduler.check()
        return known

    def expire(self) -> list[str]:
        missed = self.scheduler.expire(self.now)
        self.running.difference_update(missed)
        self.scheduler.check()
        return missed

    def prefetch(self, model: str) -> bool:
        """Load a model that nothing waits for; False where it has to wait until it is wanted."""
        backbone = f"backbone of {model}"
        self.runner.backbones.setdefault(("r1", model), backbone)
        return self.prefetch_backbone(backbone)

    def prefetch_backbone(self, backbone: str) -> bool:
        load = self.scheduler.prefetch(backbone)
        if load is not None:
            self.runner.begin([load])
        self.scheduler.check()
        return load is not None

    def let_in(self, index: int = 0) -> None:
        """Have steps wait for a load."""
        self.scheduler.arriving(self.runner.let_in(index))
        self.scheduler.check()

    def finish_load(self, index: int = 0) -> None:
        self.scheduler.loaded(self.runner.finish_copy(index))
        self.scheduler.check()

    def finish_loads(self) -> None:
        while self.runner.copying:
            self.finish_load()

    def fail_load(self, index: int = 0) -> list[str]:
        lost = self.scheduler.load_failed(self.runner.fail_copy(index))
        self.running.difference_update(lost)
        self.scheduler.check()
        return lost

    def run(self, limit: int = 2_000) -> int:
        """Step until nothing is left, loads taking one step; returns how many steps."""
        for steps in range(limit):
            if not self.scheduler.has_work:
                assert self.num_used == 0
                while self.under_way:
                    assert self.end_step() == []
                return steps
            self.step()
            self.finish_loads()
        raise AssertionError(f"work is left after {limit} steps")

    def _finished(self, event: Finished) -> None:
        sequence = self.sequences[event.id]
        self.running.discard(event.id)
        self.reasons[event.id] = event.reason
        assert (self.generated[event.id], event.reason) == alone(sequence)
        if sequence.keep_prompt_logits:
            assert self.kept[event.id] == set(range(len(sequence.prompt)))
