"""Loads releases and backbones while steps run, and drops what nothing needs.

Knows no requests: it only reports those that a failed load costs.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.engine.counters import Counters
from serve_app.engine.loading.held_backbones import HeldBackbones
from serve_app.engine.loading.loader import (
    BackboneChecked,
    BackboneHeld,
    BackboneLoaded,
    BackboneToRead,
    Loader,
    PartsLoaded,
)
from serve_app.engine.loading.outages import Outages
from serve_app.engine.loading.placing import Placing
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.loading.room import Room
from serve_app.engine.loading.stagings import OnDone, Stagings
from serve_app.engine.memory_plan import MemoryPlan
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError, Unavailable
from serve_app.scheduling.plan import BackboneCopy
from serve_app.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """A request that fails because its model's backbone could not be loaded."""

    request: str
    error: EngineError


class Supply:
    """Releases that are being staged and retired, and running loads of backbones.

    The scheduler decides which backbone to load; this class loads it and reports. A backbone is
    read and verified once, while its release is staged: straight into a place if there are places
    for all, else into host memory, from where it is copied whenever it is needed. If host memory
    has no room for all, a backbone without a copy is read again when it is needed, and its copy
    replaces the one that has not been used for longest.
    """

    def __init__(
        self,
        packed: PackedModel,
        memory: MemoryPlan,
        scheduler: Scheduler,
        releases: PooledReleases,
        counters: Counters,
        on_loaded: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """on_loaded: called from another thread when background work is done."""
        self._packed = packed
        self._scheduler = scheduler
        self._releases = releases
        self._placing = Placing(packed, releases)
        self._room = Room(packed, releases, self._placing, memory)
        self._counters = counters
        self._loader = Loader(packed, on_loaded)
        self._stagings = Stagings(releases, self._room, self._loader)
        self._host = HeldBackbones(packed, memory.host_memory)
        self._held_loads: list[BackboneCopy] = []
        self._retiring: dict[str, list[Callable[[], None]]] = {}
        self.outages = Outages(clock)
        self._orphans: set[str] = set()

    @property
    def is_staging(self) -> bool:
        """Whether a release is being loaded."""
        return bool(self._stagings)

    @property
    def host_bytes(self) -> int:
        """Bytes of copies of backbones in host memory."""
        return self._host.num_bytes

    def is_retiring(self, release: str) -> bool:
        """Whether a release takes no new requests."""
        return release in self._retiring

    def fits_beside(self, source: ReleaseSource) -> bool:
        """Whether there is room for a release next to what is loaded."""
        return self._room.fits_beside(source)

    def require_room_alone(self, source: ReleaseSource) -> None:
        """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
        self._room.require_alone(source)

    def stage(self, source: ReleaseSource, on_done: OnDone, *, may_lack: bool) -> None:
        """Start loading a release's parts and backbones, as in `Engine.stage`."""
        self._stagings.add(source, on_done, may_lack=may_lack)
        self.begin_stagings()

    def begin_stagings(self) -> None:
        """Start loading releases that need not wait any longer."""
        while self._stagings.begin_next():
            self._fetch()

    def retire(self, release: str, on_done: Callable[[], None]) -> None:
        """Take no new requests for a release; free it when its last sequence has ended.

        Raises: UnknownRelease.
        """
        self._releases.release(release)
        self._retiring.setdefault(release, []).append(on_done)
        self.drop_retired()

    def take_reports(self) -> Iterator[Lost]:
        """Take in what has been done since the last call."""
        for report in self._loader.reports():
            match report:
                case PartsLoaded():
                    self._counters.staging_seconds += report.seconds
                case BackboneHeld():
                    self._host.note(report.backbone, report.held)
                    self._note_read(report)
                case BackboneChecked():
                    self._note_read(report)
                case BackboneLoaded():
                    yield from self._note_backbone(report)
            self._orphans.update(self._stagings.note(report))
            self._let_go()

    def begin_loads(self, loads: tuple[BackboneCopy, ...]) -> bool:
        """Start a plan's loads, or hold them while a release waits to make room.

        -> whether one of them may be used before it is complete.
        """
        self._held_loads += loads
        for load in loads:  # its old content is no longer needed
            self._placing.clear(load.place)
        if self._stagings.is_making_room or not self._held_loads:
            return False
        begun, self._held_loads = self._held_loads, []
        sources = self._to_read()
        arriving = [self._begin_load(load, sources.get(load.backbone)) for load in begun]
        return any(arriving)

    def _begin_load(self, load: BackboneCopy, wanted: BackboneToRead | None) -> bool:
        if (
            wanted is None
        ):  # its release was dropped while the load was held, and nothing waits for it
            self._scheduler.load_failed(load.backbone)
            return False
        held = self._host.take(load.backbone)
        arrives = held is not None and self._scheduler.places.loading == (load.backbone,)
        arrival = self._packed.arrivals.expect(load.place)
        hold = False
        if held is None and not self._has_places_for_all and load.backbone not in self._host:
            hold = self._host.make_room(load.backbone)
        to = self._placing.put(load.place, wanted.source.models[wanted.model])
        self._loader.load_backbone(wanted, held, to, arrival, hold=hold)
        if arrives:  # and waits for no other load
            self._scheduler.arriving(load.backbone)
        return arrives

    def drop_retired(self) -> None:
        """Free the retiring releases that have no sequences any more."""
        for release in list(self._retiring):
            models = self._releases.release(release).models
            if any(self._scheduler.count((release, name)) for name in models):
                continue
            self._orphans.update(self._releases.drop(release))
            self._scheduler.forget(release)
            for on_done in self._retiring.pop(release):
                on_done()
        if self._orphans:
            orphans = self._orphans - self._to_read().keys()
            self._orphans = {b for b in orphans if not self.drop_backbone(b)}
            self._let_go()

    def drop_backbone(self, backbone: str) -> bool:
        """Empty the place of a backbone; False while it is loading or needed."""
        place = self._scheduler.places.place_of(backbone)
        if not self._scheduler.drop_backbone(backbone):
            return False
        if place is not None:
            self._placing.clear(place)
        return True

    def check(self) -> None:
        """Assert that the counts of rows, places and host copies are right, and that somebody
        copies each backbone that is loading.
        """
        copied = self._loader.loading | {load.backbone for load in self._held_loads}
        loading = set(self._scheduler.places.loading)
        assert loading == copied, f"loading {sorted(loading)}, being copied {sorted(copied)}"
        self._releases.check(self._stagings.source)
        self._placing.check()
        self._host.check()

    def close(self) -> None:
        """Stop loading."""
        self._loader.close()

    def _fetch(self) -> None:
        """Start reading a release's new backbones, and others that have neither place nor copy.

        Drops no copy for a backbone that nobody has requested yet. What is in a place now is read
        again only if it has to leave it and come back.
        """
        there = self._releases.backbones()
        fetched = {}
        for backbone, wanted in self._to_read().items():
            if self._has_places_for_all:
                load = None if backbone in there else self._scheduler.prefetch(backbone)
                if backbone in there or load is not None:
                    fetched.update({backbone: load} if load else {})
                    continue
            if backbone in self._host or self._scheduler.places.is_resident(backbone):
                continue
            if self._host.has_room and self._host.make_room(backbone):
                if backbone not in there:
                    self._stagings.wait_for(BackboneHeld, backbone)
                self._loader.hold_backbone(wanted)
            elif backbone not in there:
                self._stagings.wait_for(BackboneChecked, backbone)
                self._loader.check_backbone(wanted)
        for backbone in fetched:
            self._stagings.wait_for(BackboneLoaded, backbone)
        self.begin_loads(tuple(fetched.values()))

    def _to_read(self) -> dict[str, BackboneToRead]:
        """All backbones of releases that are loaded or being loaded."""
        found = {
            backbone: BackboneToRead(backbone, source, model)
            for backbone, (source, model) in self._releases.backbones().items()
        }
        return {**self._stagings.backbones, **found}

    @property
    def _has_places_for_all(self) -> bool:
        return len(self._to_read()) <= self._scheduler.places.num_places

    def _note_backbone(self, report: BackboneLoaded) -> Iterator[Lost]:
        self._packed.arrivals.settle(report.place)
        if report.through_host:
            self._host.note(report.backbone, report.held)
        self._counters.backbone_loads += 1
        self._counters.backbone_load_seconds += report.seconds
        self._counters.backbone_load_bytes += report.num_bytes
        if report.error is None:
            self._scheduler.loaded(report.backbone)
            self.outages.ended(report.backbone)
            return
        self._counters.backbone_load_failures += 1
        self._placing.clear(report.place)
        wait_s = self._take_out(report.backbone, report.error)
        for request in self._scheduler.load_failed(report.backbone):
            yield Lost(request, Unavailable(str(report.error), retry_after_s=wait_s))

    def _take_out(self, backbone: str, error: EngineError) -> float:
        """Refuse its models from now on. -> seconds until its files are checked again"""
        self.outages.failed(backbone, str(error))
        wait_s = self.outages.wait_s(backbone)
        logger.error(
            "a backbone could not be loaded; its files are checked again in %.0f s: %s",
            wait_s,
            error,
        )
        return wait_s

    def _note_read(self, report: BackboneHeld | BackboneChecked) -> None:
        """The files of a backbone were read: for a release, or because they had been wrong."""
        was_out = self.outages.of(report.backbone) is not None
        if was_out and report.error is not None:
            self.outages.failed(report.backbone, str(report.error))
        elif was_out:
            self.outages.ended(report.backbone)
            logger.info("the files of a backbone that could not be loaded are right again")
        elif report.error is not None and self._stagings.does_without(report):
            self._take_out(report.backbone, report.error)

    def check_outages(self) -> None:
        """Look again at files of backbones that could not be loaded, if it is time."""
        due = self.outages.take_due()
        if due:
            sources = self._to_read()
            self.outages.keep(sources)
            for backbone in due:
                if backbone in sources:
                    self._loader.check_backbone(sources[backbone])

    def _let_go(self) -> None:
        """Drop host copies that nobody needs: of no release, or in places while all have one."""
        needed = set(self._to_read())
        if self._has_places_for_all:
            needed -= set(self._scheduler.places.resident)
        self._host.keep(needed)
