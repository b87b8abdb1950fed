"""The scheduler, and two simpler ones, behind one face. They plan steps; `arena.py` times them."""

from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from serve_app.scheduling.events import Finished
from serve_app.scheduling.ledgers.blocks import BlockLedger
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.plan import StepPlan
from serve_app.scheduling.prefix_cache import PrefixCache
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import Sequence

NUM_PLACES = 24
STEP_TOKENS = 512
MAX_SEQUENCES = 64
MAX_MODEL_WAIT_S = 5.0
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step gave a sequence: a token."""

    sequence: str
    is_last: bool


class Contender(Protocol):
    """Decides what each step computes. A load that it begins is reported back by `loaded`."""

    def add(self, sequence: Sequence, now: float) -> None: ...

    def plan(self, now: float) -> tuple[list[str], int]:
        """-> backbones whose loads begin, and how many tokens the step computes"""
        ...

    def commit(self, now: float) -> list[Progress]: ...

    def loaded(self, backbone: str) -> None: ...

    @property
    def num_loads(self) -> int: ...


class Ours:
    """The scheduler of the engine."""

    def __init__(self) -> None:
        blocks = BlockLedger(MAX_SEQUENCES * 400, BLOCK)
        self.scheduler = Scheduler(
            [blocks],
            PlaceLedger(NUM_PLACES),
            step_tokens=STEP_TOKENS,
            max_sequences=MAX_SEQUENCES,
            max_model_wait_s=MAX_MODEL_WAIT_S,
            max_batch_wait_s=300.0,
            cache=PrefixCache(blocks, b"secret"),
        )
        self._plan = StepPlan()

    def add(self, sequence: Sequence, now: float) -> None:
        self.scheduler.add(sequence, now)

    def plan(self, now: float) -> tuple[list[str], int]:
        self._plan = self.scheduler.schedule(now)
        return [load.backbone for load in self._plan.loads], self._plan.num_tokens

    def commit(self, now: float) -> list[Progress]:
        sampled = {chunk.sequence: 1 for chunk in self._plan.chunks if chunk.samples}
        events = self.scheduler.commit(self._plan, sampled, now)
        return [Progress(event.id, isinstance(event, Finished)) for event in events]

    def loaded(self, backbone: str) -> None:
        self.scheduler.loaded(backbone)

    @property
    def num_loads(self) -> int:
        return self.scheduler.places.num_loads


class _Simple(ABC):
    """Nobody ever gives way. Decodes go first, then prompts in order of admission."""

    def __init__(self) -> None:
        self.num_loads = 0
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._running: list[Sequence] = []
        self._resident: OrderedDict[str, None] = OrderedDict()
        """The one that was used longest ago first."""
        self._loading: set[str] = set()
        self._step: list[tuple[Sequence, int]] = []

    def add(self, sequence: Sequence, now: float) -> None:
        self._waiting[sequence.id] = sequence

    def plan(self, now: float) -> tuple[list[str], int]:
        loads = self._begin_loads()
        self._step, budget = [], STEP_TOKENS
        for sequence in sorted(self._running, key=lambda s: s.num_missing > 1):
            budget -= self._compute(sequence, budget)
        while budget and len(self._running) < MAX_SEQUENCES and (first := self._next()):
            del self._waiting[first.id]
            self._running.append(first)
            self._resident.move_to_end(first.backbone)
            budget -= self._compute(first, budget)
        return loads, sum(count for _, count in self._step)

    def commit(self, now: float) -> list[Progress]:
        progress = []
        for sequence, count in self._step:
            sequence.num_computed += count
            if sequence.num_computed == len(sequence.tokens):
                sequence.tokens.append(1)
                is_last = sequence.num_generated == sequence.max_tokens
                progress.append(Progress(sequence.id, is_last))
                if is_last:
                    self._running.remove(sequence)
        return progress

    def loaded(self, backbone: str) -> None:
        self._loading.remove(backbone)
        self._resident[backbone] = None

    def _compute(self, sequence: Sequence, budget: int) -> int:
        count = min(sequence.num_missing, budget)
        if count:
            self._step.append((sequence, count))
        return count

    def _load(self, backbone: str, needed: set[str]) -> bool:
        """Begin to load it into an empty place, or one that nobody needs; False: there is none."""
        if len(self._resident) + len(self._loading) == NUM_PLACES:
            free = next((b for b in self._resident if b not in needed), None)
            if free is None:
                return False
            del self._resident[free]
        self._loading.add(backbone)
        self.num_loads += 1
        return True

    def _is_there(self, backbone: str) -> bool:
        return backbone in self._resident or backbone in self._loading

    @abstractmethod
    def _begin_loads(self) -> list[str]: ...

    @abstractmethod
    def _next(self) -> Sequence | None:
        """Who begins next; None if all have to wait."""


class FirstComeFirstServed(_Simple):
    """Strictly in order of arrival. It loads ahead for those that are next, and so for nobody who
    would overtake another.
    """

    def _begin_loads(self) -> list[str]:
        needed, loads = {s.backbone for s in self._running}, []
        for sequence in islice(self._waiting.values(), MAX_SEQUENCES):
            needed.add(sequence.backbone)
            if not self._is_there(sequence.backbone):
                if not self._load(sequence.backbone, needed):
                    break
                loads.append(sequence.backbone)
        return loads

    def _next(self) -> Sequence | None:
        first = next(iter(self._waiting.values()), None)
        return first if first is not None and first.backbone in self._resident else None


class GroupedByModel(_Simple):
    """A model keeps its place while anything waits for it; then the most wanted model gets it."""

    def _begin_loads(self) -> list[str]:
        wanted = Counter(s.backbone for s in self._waiting.values())
        needed, loads = {s.backbone for s in self._running} | set(wanted), []
        for backbone, _ in wanted.most_common():
            if not self._is_there(backbone):
                if not self._load(backbone, needed):
                    break
                loads.append(backbone)
        return loads

    def _next(self) -> Sequence | None:
        those = (s for s in self._waiting.values() if s.backbone in self._resident)
        return next(those, None)
