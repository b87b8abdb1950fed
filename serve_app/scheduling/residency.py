"""Which backbone gets which place next. Decides only: ledgers/places.py counts, the engine copies.

A backbone is *wanted* from the moment something waits for it while it has no place: because a
request came, or because it was evicted with requests still waiting. It is *overdue* when it has
been wanted for `max_wait_s`. At every step, those wanted longest first:

1. A wanted backbone takes an empty place, else the place of the least recently used resident
   that is idle: no sequence runs on it and none waits for it. Loads so begin when a model first
   shows up in the queue. A resident that has requests waiting is never thrown out for one that
   is merely wanted: two models that are both asked for do not take turns at every step.
2. For each overdue one that is left, one place *drains*: nothing more is admitted to it, what
   runs on it ends, and then it goes to the backbone wanted longest. Chosen is the resident for
   which nothing waits, else the one whose waiting tenants were served most; among equals the
   least recently used.
3. A place that was just loaded is not drained before it has admitted something, nor before all
   that waited for it when it became resident was admitted or `max_wait_s` has passed: a load
   pays for a batch, and a model with a long queue cannot hold its place.
4. A backbone that arrives is admitted to while nothing runs on another place and nothing waits
   for a resident: steps then wait for its tensors, and delay nobody. Its tenure begins with that.
   It does not drain before it is resident. If its load fails, so does what runs on it.
5. An empty place that nobody wants may be filled ahead of all requests (`prefetch`). What is there
   then is an idle resident like any other. A backbone may be asked for though nothing waits for it
   (`ask`): it is wanted like others until its load begins.
6. A backbone that is *kept* is never evicted and never drains. One place at least is not kept.
7. With `min_residency_s`, a place does not drain before its tenure is so long.
8. What waits in batch makes no backbone wanted and keeps no place. Its backbone is loaded into an
   empty or idle place that no other wants, where nothing waits at all. What runs of batch on a
   place that drains gives way at once, and nothing of it begins beside what waits for a load.

The bound that follows. Take the moment a backbone has been wanted for `max_wait_s`, and let r be
the number of backbones wanted longer. If more than r places are then drainable (resident and, by
rule 3, not protected), its load begins as soon as r + 1 of the draining places have drained, so
no later than

    max_wait_s + the time in which the sequences then running on a place end.

Every resident is drainable then that is not kept, was resident when the backbone was first wanted
and for `min_residency_s`, and has since admitted something. With more backbones wanted than that,
each further turn of a place adds one load, at most `max_wait_s` (or `min_residency_s`, if that is
longer) from its first admission on, and one drain: the order is that of having been wanted, so the
turns go round and nobody is passed over.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from serve_app.scheduling.errors import TooManyKept
from serve_app.scheduling.fairness.lanes import Lanes
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.plan import BackboneCopy


@dataclass(slots=True)
class _Tenure:
    """A backbone's time in its place, from its load's end or its first admission on.

    `gate`: sequences of a lower number waited at its start.
    """

    since: float
    gate: int
    has_admitted: bool = False


class Residency:
    """Wanted, draining and resident backbones."""

    def __init__(
        self,
        places: PlaceLedger,
        lanes: Lanes,
        *,
        max_wait_s: float,
        min_residency_s: float = 0.0,
    ) -> None:
        self._places = places
        self._lanes = lanes
        self._urgent = lanes.urgent
        self._max_wait_s = max_wait_s
        self._min_residency_s = min_residency_s
        self._kept: frozenset[str] = frozenset()
        self._asked: set[str] = set()
        self._wanted: dict[str, float] = {}
        self._draining: list[str] = []
        self._tenures: dict[str, _Tenure] = {}

    @property
    def wanted(self) -> dict[str, float]:
        """Since when each wanted backbone is wanted, longest first."""
        return dict(self._wanted)

    @property
    def kept(self) -> frozenset[str]:
        """Backbones that are never evicted, whether they have a place or not."""
        return self._kept

    @property
    def num_switches(self) -> int:
        """How often a place went from one backbone to another."""
        return self._places.num_evictions

    @property
    def draining(self) -> tuple[str, ...]:
        """Residents that nothing is admitted to, in the order they were chosen."""
        return tuple(self._draining)

    def admits(self, backbone: str) -> bool:
        """Whether sequences of this backbone may begin to run."""
        return self._places.is_resident(backbone) and backbone not in self._draining

    def admits_early(self, backbone: str) -> bool:
        """Whether they may begin before it is all there, since nothing else runs (rule 4).

        Asked when nothing waits that `admits` would let run.
        """
        others = (b for b in self._places.pinned if b != backbone)
        return self._places.is_arriving(backbone) and next(others, None) is None

    @property
    def is_early(self) -> bool:
        """Whether something runs whose backbone is not all there."""
        return any(self._places.is_arriving(b) for b in self._places.pinned)

    def num_waiting(self, backbone: str) -> int:
        """How many sequences wait for it."""
        return self._lanes.num_waiting(backbone)

    def want(self, backbone: str, now: float) -> None:
        """Something urgent waits for it."""
        if self._places.place_of(backbone) is None:
            self._wanted.setdefault(backbone, now)

    def unwant(self, backbone: str) -> None:
        """Something that waited for it was given up."""
        if not self._urgent.num_waiting(backbone) and backbone not in self._asked:
            self._wanted.pop(backbone, None)

    def ask(self, backbone: str, now: float) -> None:
        """Load it, though nothing waits for it."""
        if self._places.place_of(backbone) is None:
            self._asked.add(backbone)
            self.want(backbone, now)

    def keep(self, backbones: Collection[str]) -> None:
        """Keep these, and no others from now on. TooManyKept, and nothing changed, if they fill
        all places.
        """
        kept = frozenset(backbones)
        if len(kept) >= self._places.num_places and kept:
            raise TooManyKept(len(kept), self._places.num_places)
        self._kept = kept
        self._draining = [b for b in self._draining if b not in kept]

    def admitted(self, backbone: str, now: float, next_number: int) -> None:
        """A sequence of this backbone has begun to run."""
        tenure = self._tenures.setdefault(backbone, _Tenure(now, next_number))
        tenure.has_admitted = True

    def load_failed(self, backbone: str) -> None:
        """Its place is empty again. ValueError, and nothing changed, unless loading, unpinned."""
        self._places.load_failed(backbone)
        self._end_tenure(backbone)

    def prefetch(self, backbone: str) -> BackboneCopy | None:
        """Give it an empty place that nobody wants; None where there is none, or it has one."""
        place = self._places.empty()
        is_placed = self._places.place_of(backbone) is not None
        if place is None or is_placed or self._wanted or self._wanted_by_batch():
            return None
        self._places.begin_load(backbone, place)
        return BackboneCopy(backbone, place)

    def forget(self, backbone: str) -> bool:
        """Empty its place; False, and nothing changed, while it is loading or needed."""
        if self._lanes.num_waiting(backbone) or not self._places.forget(backbone):
            return False
        self._end_tenure(backbone)
        self._asked.discard(backbone)
        self._wanted.pop(backbone, None)
        return True

    def begin_loads(self, now: float, next_number: int) -> tuple[BackboneCopy, ...]:
        """Give places to wanted backbones and choose which places drain."""
        for backbone in self._places.resident:
            self._tenures.setdefault(backbone, _Tenure(now, next_number))
        loads = []
        for backbone in list(self._wanted):
            place = self._free_place()
            if place is None:
                break
            loads.append(self._begin(backbone, place, now))
        overdue = [b for b, since in self._wanted.items() if now - since >= self._max_wait_s]
        self._choose_draining(len(overdue), now)
        drained = [b for b in self._draining if not self._places.pins(b)]
        for backbone, victim in zip(overdue, drained, strict=False):
            loads.append(self._begin(backbone, self._held_place(victim), now))
        for backbone in () if self._wanted else self._wanted_by_batch():
            place = self._free_place(for_batch=True)
            if place is None:
                break
            loads.append(self._begin(backbone, place, now))
        return tuple(loads)

    def check(self) -> None:
        """Assert that wanted and draining say what queues and places say."""
        needed = {q.backbone for q in self._urgent if q.waiting} | self._asked
        placeless = {b for b in needed if self._places.place_of(b) is None}
        assert set(self._wanted) == placeless, f"wanted {self._wanted}, placeless {placeless}"
        since = list(self._wanted.values())
        assert since == sorted(since), f"wanted is out of order: {self._wanted}"
        assert set(self._draining) <= set(self._tenures), "a draining backbone has no tenure"
        without = [b for b in self._tenures if self._places.place_of(b) is None]
        assert not without, f"tenures without a place: {without}"
        assert len(set(self._draining)) == len(self._draining), "a place drains twice"
        assert not self._kept & set(self._draining), "a kept backbone drains"
        assert self._asked <= set(self._wanted), f"asked {self._asked}, wanted {self._wanted}"

    def _wanted_by_batch(self) -> list[str]:
        """Backbones without a place for which nothing urgent waits, but something of batch."""
        waited_for = self._lanes.batch.backbones
        return [b for b in waited_for if b not in self._wanted and self._places.place_of(b) is None]

    def _free_place(self, *, for_batch: bool = False) -> int | None:
        """An empty place, else that of the least recently used idle resident."""
        empty = self._places.empty()
        if empty is not None:
            return empty
        queues = self._lanes if for_batch else self._urgent
        idle = (
            b for b in self._places.unpinned() if not queues.num_waiting(b) and b not in self._kept
        )
        victim = next(idle, None)
        return None if victim is None else self._held_place(victim)

    def _begin(self, backbone: str, place: int, now: float) -> BackboneCopy:
        evicted = self._places.begin_load(backbone, place)
        self._wanted.pop(backbone, None)
        self._asked.discard(backbone)
        if evicted is not None:
            self._end_tenure(evicted)
            if self._urgent.num_waiting(evicted):
                self._wanted[evicted] = now
        return BackboneCopy(backbone, place)

    def _choose_draining(self, count: int, now: float) -> None:
        """Let `count` places drain, as far as there are any; those chosen first stay chosen."""
        del self._draining[count:]
        drainable = [
            b for b in self._places.resident if b not in self._draining and self._may_drain(b, now)
        ]
        drainable.sort(key=self._claim)
        self._draining += drainable[: count - len(self._draining)]

    def _may_drain(self, backbone: str, now: float) -> bool:
        tenure = self._tenures[backbone]
        if backbone in self._kept or now - tenure.since < self._min_residency_s:
            return False
        if not self._urgent.num_waiting(backbone):
            return True
        if not tenure.has_admitted:
            return False
        if now - tenure.since >= self._max_wait_s:
            return True
        first = self._urgent.first_waiting(backbone)
        return first is None or first >= tenure.gate

    def _claim(self, backbone: str) -> tuple[float, int]:
        """How much a resident deserves its place; the least deserving sorts first."""
        served = self._urgent.least_served(backbone)
        return (-inf if served is None else -served, self._places.last_used(backbone))

    def _held_place(self, backbone: str) -> int:
        place = self._places.place_of(backbone)
        assert place is not None, f"backbone {backbone!r} was thought resident"
        return place

    def _end_tenure(self, backbone: str) -> None:
        self._tenures.pop(backbone, None)
        if backbone in self._draining:
            self._draining.remove(backbone)
